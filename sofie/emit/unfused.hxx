// What keeps compilers from fusing a product with a sum where the code does not say so: g++ takes that as an attribute of
// each function; clang does it inside an expression only, where the code always says so.

#if defined(__clang__)
#define SOFIE_UNFUSED
#else
#define SOFIE_UNFUSED __attribute__((optimize("fp-contract=off")))
#endif
