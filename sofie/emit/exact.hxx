// What makes kernels give the same bits on every CPU, by every compiler, under every optimisation: no product is fused
// with the sum behind it, no sum is reordered, and no division becomes an estimate or a multiplication.
//
// g++ takes that as an attribute of each function. clang takes it inside a function, except that -ffast-math fuses
// behind its back: there, products pass through detail::product, which hides them.

#if defined(__clang__)
#define SOFIE_EXACT_TARGET
#if defined(__SSE2__)
#define SOFIE_EXACT _Pragma("float_control(precise, on)") _Pragma("clang fp contract(off)")
#else
#define SOFIE_EXACT _Pragma("clang fp reassociate(off) contract(off)")
#endif
#else
#define SOFIE_EXACT_TARGET __attribute__((optimize("no-fast-math", "no-math-errno", "fp-contract=off")))
#define SOFIE_EXACT
#endif
