// The weights of a model: read-only, shared between copies, and checked before they are handed out.
//
// Pasted inside a model's namespace, after constants in detail:: that describe the one weight file which fits the code:
// its place, its size, its header's size and the digest of its layout. The header starts with a fixed-form
// `__metadata__`, so that the checks need no JSON parser; sofie/weight_file.py documents the format. With
// SOFIE_EMBEDDED_WEIGHTS the same bytes are also part of the program, as detail::embedded_weights, and Weights() needs
// no file.

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "SOFIE weights are little-endian, and this code uses them in place"
#endif

namespace detail {

// CRC-32 as in zlib: 8 tables take 8 bytes a step.
struct Crc32Tables {
   std::uint32_t after[8][256]; // after[k][b]: the remainder of byte b followed by k zero bytes
};

constexpr Crc32Tables crc32_tables()
{
   Crc32Tables tables{};
   for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t remainder = byte;
      for (int bit = 0; bit < 8; ++bit)
         remainder = (remainder >> 1) ^ ((remainder & 1u) ? 0xedb88320u : 0u);
      tables.after[0][byte] = remainder;
   }
   for (int zeros = 1; zeros < 8; ++zeros)
      for (int byte = 0; byte < 256; ++byte) {
         const std::uint32_t shorter = tables.after[zeros - 1][byte];
         tables.after[zeros][byte] = (shorter >> 8) ^ tables.after[0][shorter & 0xffu];
      }
   return tables;
}

inline std::uint32_t crc32(const unsigned char *data, std::size_t size)
{
   static constexpr Crc32Tables tables = crc32_tables();
   const auto &after = tables.after;
   std::uint32_t crc = 0xffffffffu;
   for (; size >= 8; data += 8, size -= 8) {
      std::uint32_t low, high;
      std::memcpy(&low, data, 4);
      std::memcpy(&high, data + 4, 4);
      low ^= crc;
      crc = after[7][low & 0xffu] ^ after[6][low >> 8 & 0xffu] ^ after[5][low >> 16 & 0xffu] ^ after[4][low >> 24] ^
            after[3][high & 0xffu] ^ after[2][high >> 8 & 0xffu] ^ after[1][high >> 16 & 0xffu] ^ after[0][high >> 24];
   }
   for (; size > 0; ++data, --size)
      crc = (crc >> 8) ^ after[0][(crc ^ *data) & 0xffu];
   return ~crc;
}

// 4096 -> "4,096"
inline std::string with_thousands(std::size_t number)
{
   std::string digits = std::to_string(number);
   for (std::size_t end = digits.size(); end > 3; end -= 3)
      digits.insert(end - 3, 1, ',');
   return digits;
}

} // namespace detail

class Weights {
public:
#if defined(SOFIE_EMBEDDED_WEIGHTS)
   // The weights compiled into the program.
   Weights() : bytes_(std::shared_ptr<const void>(), detail::embedded_weights) {}
#else
   // The weights in the model's own file.
   Weights() : Weights(std::string(detail::weight_file)) {}
#endif

   // Throws std::runtime_error, in one sentence, if the file is missing, damaged or another model's. The file may be
   // replaced while it is in use, as SOFIE does, but not overwritten. One with a relative path is looked for from the
   // working directory, then from the folders of $SOFIE_WEIGHTS_PATH (a:b:c), then from the one this header was in.
   explicit Weights(const std::string &file)
   {
      std::size_t size = 0;
      const std::string found = located(file);
      bytes_ = load(found, size);
      check(found, bytes_.get(), size);
   }

   // A copy of a weight file that is in memory; throws as for a file.
   Weights(const void *file, std::size_t size)
   {
      if (file == nullptr)
         fail("in memory", "is not there: the pointer is null");
      const auto memory = aligned_memory(size);
      std::memcpy(memory.get(), file, size);
      check("in memory", memory.get(), size);
      bytes_ = memory;
   }

   // The start of the file, aligned to 64 bytes.
   const unsigned char *data() const noexcept { return bytes_.get(); }

private:
   std::shared_ptr<const unsigned char> bytes_;

   [[noreturn]] static void fail(const std::string &file, const std::string &problem)
   {
      throw std::runtime_error("weights file '" + file + "' " + problem);
   }

   static const char *remedy() { return "; copy it again from where SOFIE wrote it"; }

   static std::string located(const std::string &file)
   {
      if (file.empty() || file[0] == '/' || exists(file))
         return file;
      const char *const variable = std::getenv("SOFIE_WEIGHTS_PATH");
      const std::string header = __FILE__, folders = variable == nullptr ? "" : variable;
      for (std::size_t start = 0; start < folders.size();) {
         const std::size_t colon = folders.find(':', start), end = colon == folders.npos ? folders.size() : colon;
         const std::string there = folders.substr(start, end - start) + '/' + file;
         if (end > start && exists(there))
            return there;
         start = end + 1;
      }
      const std::size_t slash = header.rfind('/');
      const std::string beside = slash == header.npos ? file : header.substr(0, slash + 1) + file;
      return exists(beside) ? beside : file;
   }

   static std::shared_ptr<unsigned char> aligned_memory(std::size_t size)
   {
      const std::shared_ptr<unsigned char> block(new unsigned char[size + 63], std::default_delete<unsigned char[]>());
      const auto misalignment = reinterpret_cast<std::uintptr_t>(block.get()) % 64;
      return std::shared_ptr<unsigned char>(block, block.get() + (misalignment ? 64 - misalignment : 0));
   }

   // Up to one byte more than the file should have: enough to tell that it is too long.
   static constexpr std::size_t most = detail::weight_file_bytes + 1;

#if defined(__unix__) || defined(__APPLE__)
   struct Descriptor {
      int number;
      ~Descriptor() { ::close(number); }
   };

   static bool exists(const std::string &file) { return ::access(file.c_str(), F_OK) == 0; }

   static std::shared_ptr<const unsigned char> load(const std::string &file, std::size_t &size)
   {
      const int number = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
      if (number < 0)
         fail_to_open(file, ::access(file.c_str(), F_OK) != 0);
      const Descriptor descriptor{number};
      struct stat status;
      if (::fstat(number, &status) != 0 || !S_ISREG(status.st_mode))
         fail(file, "is not a regular file");
      size = static_cast<std::size_t>(status.st_size);
      if (size == 0)
         return aligned_memory(0);

      void *const mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, number, 0);
      if (mapped != MAP_FAILED)
         return std::shared_ptr<const unsigned char>(
             static_cast<const unsigned char *>(mapped),
             [mapped, size](const unsigned char *) { ::munmap(mapped, size); });

      // Some file systems cannot map.
      const auto memory = aligned_memory(most);
      const std::size_t wanted = size < most ? size : most;
      std::size_t filled = 0;
      while (filled < wanted) {
         const auto count = ::read(number, memory.get() + filled, wanted - filled);
         if (count < 0)
            fail(file, "cannot be read: the file system reports an error");
         if (count == 0)
            break;
         filled += static_cast<std::size_t>(count);
      }
      if (filled < wanted)
         size = filled;
      return memory;
   }
#else
   static bool exists(const std::string &file)
   {
      return std::unique_ptr<std::FILE, int (*)(std::FILE *)>(std::fopen(file.c_str(), "rb"), std::fclose) != nullptr;
   }

   static std::shared_ptr<const unsigned char> load(const std::string &file, std::size_t &size)
   {
      const std::unique_ptr<std::FILE, int (*)(std::FILE *)> stream(std::fopen(file.c_str(), "rb"), std::fclose);
      if (!stream)
         fail_to_open(file, true);
      const auto memory = aligned_memory(most);
      size = std::fread(memory.get(), 1, most, stream.get());
      if (std::ferror(stream.get()))
         fail(file, "cannot be read: the file system reports an error");
      return memory;
   }
#endif

   [[noreturn]] static void fail_to_open(const std::string &file, bool missing)
   {
      if (missing)
         fail(
             file,
             std::string("does not exist, nor is it in a folder of SOFIE_WEIGHTS_PATH or beside its header; "
                         "put the one SOFIE wrote for ") +
                 detail::model_name + " there, or pass its path");
      fail(file, "cannot be opened; check its permissions");
   }

   // 8 bytes of length, then {"__metadata__":{"checksum":"01234567","layout":"..."}
   static void check(const std::string &file, const unsigned char *bytes, std::size_t size)
   {
      constexpr char before_checksum[] = "{\"__metadata__\":{\"checksum\":\"";
      constexpr char before_layout[] = "\",\"layout\":\"";
      constexpr char after_layout[] = "\"}";
      constexpr std::size_t checksum_at = 8 + sizeof before_checksum - 1;
      constexpr std::size_t layout_at = checksum_at + 8 + sizeof before_layout - 1;
      constexpr std::size_t layout_size = sizeof detail::weight_layout - 1;
      constexpr std::size_t rest_at = layout_at + layout_size + sizeof after_layout - 1;
      static_assert(layout_size == 64, "a layout digest has 64 hex digits");
      static_assert(rest_at < detail::weight_header_bytes, "the header holds the metadata");
      static_assert(detail::weight_header_bytes <= detail::weight_file_bytes, "the file holds the header");

      const auto holds = [&](std::size_t at, const char *text, std::size_t length) {
         return std::memcmp(bytes + at, text, length) == 0;
      };
      // Whose file it is comes before its size, since another model's file mostly differs in both.
      if (size >= rest_at) {
         if (!holds(8, before_checksum, sizeof before_checksum - 1) ||
             !holds(checksum_at + 8, before_layout, sizeof before_layout - 1) ||
             !holds(rest_at - 2, after_layout, sizeof after_layout - 1))
            fail(file, std::string("is not a SOFIE weights file; pass the one SOFIE wrote for ") + detail::model_name);
         if (!holds(layout_at, detail::weight_layout, layout_size))
            fail(
                file,
                std::string(
                    "belongs to another model or another version of this one; "
                    "pass the one SOFIE wrote for ") +
                    detail::model_name);
      }
      if (size < detail::weight_file_bytes)
         fail(
             file,
             "is truncated: " + detail::with_thousands(size) + " of " +
                 detail::with_thousands(detail::weight_file_bytes) + " bytes" + remedy());
      if (size > detail::weight_file_bytes)
         fail(file, "is longer than its " + detail::with_thousands(detail::weight_file_bytes) + " bytes" + remedy());

      std::uint64_t json_bytes = 0;
      for (int byte = 7; byte >= 0; --byte)
         json_bytes = json_bytes << 8 | bytes[byte];
      if (json_bytes != detail::weight_header_bytes - 8)
         fail(file, std::string("is corrupt: its header has the wrong length") + remedy());

      const std::uint32_t checksum = detail::crc32(bytes + rest_at, size - rest_at);
      char digits[8];
      for (int digit = 0; digit < 8; ++digit)
         digits[digit] = "0123456789abcdef"[checksum >> (28 - 4 * digit) & 0xfu];
      if (!holds(checksum_at, digits, sizeof digits))
         fail(file, std::string("is corrupt: its bytes do not match its checksum") + remedy());
   }
};
