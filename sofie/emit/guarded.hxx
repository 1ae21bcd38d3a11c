thread_local std::string problem;

// What `act` returns, or `failed` where it throws: its sentence is kept for the thread that asks.
template <class Act> auto guarded(Act act, decltype(act()) failed) noexcept -> decltype(act())
{
   try {
      return act();
   } catch (const std::exception &error) {
      try {
         problem = error.what();
      } catch (...) {
         problem.clear();
      }
   } catch (...) {
      problem.clear();
   }
   return failed;
}
