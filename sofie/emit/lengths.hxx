namespace detail {

// Throws std::invalid_argument where a vector is not as long as its input.
inline void check_length(const char *input, std::size_t length, std::size_t wanted)
{
   if (length != wanted)
      throw std::invalid_argument(
          std::string(model_name) + ": the input " + input + " has " + with_thousands(length) + " elements, not " +
          with_thousands(wanted));
}

// Throws std::invalid_argument where an input that goes by its name was not set.
inline void check_set(const char *input, const void *pointer)
{
   if (pointer == nullptr)
      throw std::invalid_argument(std::string(model_name) + ": the input " + input + " is not set");
}

} // namespace detail
