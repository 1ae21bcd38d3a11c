"""The elementary functions of math.hxx against libm in double, on every vector width and under the usual flags.

The kernels are compiled on their own, once per set of flags, and linked with a reference that is always compiled with
-O2: what -Ofast does to the reference or to the floating-point mode at start-up is thus not measured.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

EMIT = Path(__file__).resolve().parents[2] / "sofie" / "emit"
COMPILERS = [name for name in ("g++", "clang++", "clang++-14") if shutil.which(name)][:2]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Wconversion", "-Werror"]

AVX512 = "avx512f,avx512vl,avx512dq,avx512bw,fma"
SCALAR, SSE2, AVX2 = (1, ""), (4, ""), (8, "avx2,fma")
WIDTHS = [SSE2, AVX2, (16, AVX512)]

# In units of the last place of the result: just above the worst of every fifth of all floats.
BOUNDS = {"exp": 1.0, "log": 0.95, "tanh": 2.45, "quick_tanh": 6.05, "sigmoid": 2.4, "erf": 1.2, "sqrt": 0.5}

KERNELS = """
#define SOFIE_INLINE SOFIE_TARGET inline __attribute__((always_inline))
namespace model {
#if SOFIE_LANES < 4
typedef char v4f32; // the name is free
#endif
#include FMA
#include MATH
}
namespace another_model_in_the_same_program {
#include FMA
#include MATH
}

// `scale` is 1: only a product tempts the compiler to fuse it with the first addition inside the function.
#define SCALAR(function)                                                                                    \\
   SOFIE_TARGET static void function##_scalar(const float *x, const float *scale, float *y, int n)          \\
   {                                                                                                        \\
      for (int i = 0; i < n; ++i)                                                                           \\
         y[i] = model::function(x[i] * scale[i]);                                                           \\
   }
#define VECTOR(function, lanes)                                                                             \\
   SOFIE_TARGET static void function##_##lanes(const float *x, const float *scale, float *y, int n)         \\
   {                                                                                                        \\
      typedef float Unaligned __attribute__((vector_size(4 * lanes), aligned(4), may_alias));               \\
      for (int i = 0; i < n; i += lanes) {                                                                  \\
         const model::v##lanes##f32 product = *reinterpret_cast<const Unaligned *>(x + i) *                 \\
                                              *reinterpret_cast<const Unaligned *>(scale + i);              \\
         *reinterpret_cast<Unaligned *>(y + i) = model::function(product);                                  \\
      }                                                                                                     \\
   }
#define EACH(define)                                                                                        \\
   define(exp) define(log) define(tanh) define(quick_tanh) define(sigmoid) define(erf) define(sqrt)

struct Kernel {
   const char *function;
   int lanes;
   void (*run)(const float *, const float *, float *, int);
};
#define SCALAR_ENTRY(function) {#function, 1, function##_scalar},
#define VECTOR_4(function) VECTOR(function, 4)
#define VECTOR_4_ENTRY(function) {#function, 4, function##_4},
#define VECTOR_8(function) VECTOR(function, 8)
#define VECTOR_8_ENTRY(function) {#function, 8, function##_8},
#define VECTOR_16(function) VECTOR(function, 16)
#define VECTOR_16_ENTRY(function) {#function, 16, function##_16},

EACH(SCALAR)
#if SOFIE_LANES >= 4
EACH(VECTOR_4)
#endif
#if SOFIE_LANES >= 8
EACH(VECTOR_8)
#endif
#if SOFIE_LANES >= 16
EACH(VECTOR_16)
#endif

extern const Kernel kernels[];
const Kernel kernels[] = {
   EACH(SCALAR_ENTRY)
#if SOFIE_LANES >= 4
   EACH(VECTOR_4_ENTRY)
#endif
#if SOFIE_LANES >= 8
   EACH(VECTOR_8_ENTRY)
#endif
#if SOFIE_LANES >= 16
   EACH(VECTOR_16_ENTRY)
#endif
   {nullptr, 0, nullptr}};

double in_double(int function, double x);
SOFIE_TARGET double in_double(int function, double x)
{
   switch (function) {
   case 0: return model::exp(x);
   case 1: return model::log(x);
   case 2: return model::tanh(x);
   case 3: return model::quick_tanh(x);
   case 4: return model::sigmoid(x);
   case 5: return model::erf(x);
   default: return model::sqrt(x);
   }
}
"""

REFERENCE = r"""
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct Kernel {
   const char *function;
   int lanes;
   void (*run)(const float *, const float *, float *, int);
};
extern const Kernel kernels[];
double in_double(int function, double x);

static double sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

struct Function {
   const char *name;
   double (*value)(double);
};
static const Function functions[] = {{"exp", std::exp}, {"log", std::log}, {"tanh", std::tanh},
                                     {"quick_tanh", std::tanh}, {"sigmoid", sigmoid},
                                     {"erf", std::erf}, {"sqrt", std::sqrt}};

static std::uint32_t bits(float x)
{
   std::uint32_t pattern;
   std::memcpy(&pattern, &x, sizeof pattern);
   return pattern;
}

static float from_bits(std::uint64_t pattern)
{
   const std::uint32_t low = static_cast<std::uint32_t>(pattern);
   float x;
   std::memcpy(&x, &low, sizeof x);
   return x;
}

// The distance from the true value in units of the last place of the float nearest to it.
static double ulp(float got, double want)
{
   const float nearest = static_cast<float>(want);
   if (std::isnan(want) || std::isnan(got))
      return std::isnan(want) && std::isnan(got) ? 0 : INFINITY;
   if (std::isinf(nearest) || std::isinf(got))
      return nearest == got ? 0 : INFINITY;
   if (want == 0)
      return bits(got) == bits(nearest) ? 0 : INFINITY;
   int exponent;
   std::frexp(want, &exponent);
   return std::fabs(got - want) * std::ldexp(1.0, 24 - (exponent < -125 ? -125 : exponent));
}

static const float edges[] = {
   0.0f, -0.0f, 1.0f, -1.0f, 0x1p-149f, -0x1p-149f, 0x0.fffffep-126f, -0x0.fffffep-126f, 0x1p-126f, -0x1p-126f,
   0x1.fffffep127f, -0x1.fffffep127f, INFINITY, -INFINITY, NAN, -NAN, 88.72283f, 88.72284f, 89.0f, 89.5f, 128.0f,
   -87.33654f, -87.33655f, -103.97207f, -103.97208f, -104.0f, -104.5f, -128.0f, 0.92f, -0.92f, 4.0f, 9.5f, -9.5f,
   0x1.555554p-1f, 0x1.555556p-1f, 0x1.fffffep-1f, 0x1.000002p0f};

static const double arguments_in_double[] = {-800.0, -3.0, -0.5, 0.0, 0.3, 1.0, 7.0, 800.0};

int main(int, char **arguments)
{
   const unsigned lanes = static_cast<unsigned>(std::atoi(arguments[1]));
#if defined(__x86_64__)
   if ((lanes == 8 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) ||
       (lanes == 16 && !(__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))))
      return 77;
#endif
   const unsigned step = static_cast<unsigned>(std::atoi(arguments[2]));
   const bool measure = arguments[3][0] == '1', finite_only = arguments[4][0] == '1';
   constexpr int count = 4096;
   alignas(64) static float x[count], scale[count], scalar[count], vector[count];
   for (float &one : scale)
      one = 1.0f;

   for (int f = 0; f < 7; ++f) {
      double worst = 0;
      float at = 0;
      long differing = 0;
      int widths = 0;
      std::uint64_t next = 0;
      std::size_t edge = 0;
      while (next < 1ull << 32) {
         for (int filled = 0; filled < count;) {
            float value = 0.5f;
            if (edge < sizeof edges / sizeof *edges) {
               value = edges[edge++];
            } else if (next < 1ull << 32) {
               value = from_bits(next);
               next += step;
            }
            if (!finite_only || std::isfinite(value))
               x[filled++] = value;
         }
         kernels[f].run(x, scale, scalar, count);
         widths = 1;
         for (const Kernel *k = kernels + 7; k->function; ++k) {
            if (std::strcmp(k->function, functions[f].name) != 0)
               continue;
            ++widths;
            k->run(x, scale, vector, count);
            for (int i = 0; i < count; ++i)
               if (bits(scalar[i]) != bits(vector[i]) && !(std::isnan(scalar[i]) && std::isnan(vector[i]))) {
                  ++differing;
                  at = x[i];
               }
         }
         for (int i = 0; measure && i < count; ++i) {
            const double error = ulp(scalar[i], functions[f].value(static_cast<double>(x[i])));
            if (error > worst) {
               worst = error;
               at = x[i];
            }
         }
      }
      long unlike_libm = 0;
      for (double argument : arguments_in_double) {
         const double want = functions[f].value(argument), got = in_double(f, argument);
         const bool alike = got == want || (std::isnan(got) && std::isnan(want)) ||
                            std::fabs(got - want) <= 3e-16 * std::fabs(want);
         unlike_libm += !alike;
      }
      std::printf("%s: widths %d, differing %ld, ulp %.4f at %a, double %ld\n", functions[f].name, widths, differing,
                  worst, static_cast<double>(at), unlike_libm);
   }
}
"""

LINE = re.compile(r"(\w+): widths (\d+), differing (\d+), ulp (\S+) at (\S+), double (\d+)")

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler on this machine")
each_compiler = pytest.mark.parametrize("compiler", COMPILERS or ["g++"])


def command(*arguments: object) -> None:
    """Run a compiler; its messages are the test's failure."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "reference.cpp").write_text(REFERENCE)
    command(COMPILERS[0], "-std=c++17", "-O2", "-c", folder / "reference.cpp", "-o", folder / "reference.o")
    return folder / "reference.o"


def run_kernels(
    folder: Path,
    reference: Path,
    compiler: str,
    flags: list[str],
    width: tuple[int, str],
    *,
    step: int = 1021,
    measure: bool = False,
    link_flags: list[str] | None = None,
) -> dict[str, tuple[int, int, float, str, int]]:
    """Per function: widths run, results that differ between them, worst ULP, where, and how often double was wrong."""
    lanes, target = width
    (folder / "kernels.cpp").write_text(KERNELS)
    attribute = f'__attribute__((target("{target}")))' if target else ""
    command(
        compiler, "-std=c++17", *flags, *WARNINGS, f'-DFMA="{EMIT / "fma.hxx"}"', f'-DMATH="{EMIT / "math.hxx"}"',
        *["-DSOFIE_FMA"] * target.endswith("fma"), f"-DSOFIE_LANES={lanes}",
        f"-DSOFIE_TARGET={attribute}", "-c", folder / "kernels.cpp", "-o", folder / "kernels.o",
    )  # fmt: skip
    command(compiler, *(link_flags or []), reference, folder / "kernels.o", "-lm", "-o", folder / "program")
    finite_only = int("-Ofast" in flags)
    done = subprocess.run(
        [str(folder / "program"), str(lanes), str(step), str(int(measure)), str(finite_only)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"this processor lacks {target}; the kernels were compiled, not run")
    assert done.returncode == 0, done.stderr[-4000:]
    found = LINE.findall(done.stdout)
    assert [row[0] for row in found] == list(BOUNDS)
    return {n: (int(w), int(d), float(u), at, int(wrong)) for n, w, d, u, at, wrong in found}


def assert_accurate(results: dict[str, tuple[int, int, float, str, int]]) -> None:
    """The scalar results are within their bounds, and those of every other width are the same."""
    for function, (_, differing, ulp, at, _) in results.items():
        assert ulp <= BOUNDS[function], f"{function}({at}) is off by {ulp} ULP"
        assert differing == 0, f"{function}({at}), among {differing} others, depends on the width"


@needs_compiler
@pytest.mark.parametrize("flags", ["-O2", "-Ofast"])
@pytest.mark.parametrize("width", [SSE2, AVX2], ids=["sse2", "avx2"])
def test_results_stay_within_their_bounds(tmp_path: Path, reference: Path, width: tuple[int, str], flags: str) -> None:
    """A wrong coefficient, special value or denormal; under -Ofast, a rounding or range reduction optimised away."""
    assert_accurate(run_kernels(tmp_path, reference, COMPILERS[0], [flags], width, measure=True))


@needs_compiler
@each_compiler
@pytest.mark.parametrize("width", [SSE2, AVX2], ids=["sse2", "avx2"])
def test_no_compiler_estimates_a_division_or_a_root(
    tmp_path: Path, reference: Path, compiler: str, width: tuple[int, str]
) -> None:
    """Fast-math trades the last bits of a quotient or a square root for speed."""
    assert_accurate(run_kernels(tmp_path, reference, compiler, ["-Ofast"], width, step=65521, measure=True))


@needs_compiler
@each_compiler
@pytest.mark.parametrize("width", WIDTHS, ids=["sse2", "avx2", "avx512"])
@pytest.mark.parametrize("flags", ["-O0", "-O2", "-O3", "-Ofast", "-O3 -march=native", "-Ofast -march=native"])
def test_the_tail_of_a_loop_gives_the_same_bits_as_its_body(
    tmp_path: Path, reference: Path, compiler: str, flags: str, width: tuple[int, str]
) -> None:
    """An element's value depends on its position in the tensor: the compiler fused or reassociated one width only."""
    step = 65521 if flags == "-O0" else 4093
    for function, (widths, differing, _, at, double) in run_kernels(
        tmp_path, reference, compiler, flags.split(), width, step=step
    ).items():
        assert widths == {4: 2, 8: 3, 16: 4}[width[0]]
        assert differing == 0, f"{function}({at}), among {differing} others"
        assert double == 0, f"{function}(double) is not libm's"


@needs_compiler
@each_compiler
def test_a_target_without_vectors_is_served(tmp_path: Path, reference: Path, compiler: str) -> None:
    """The scalar functions use a vector type, or are less accurate than where they share the file with vectors."""
    results = run_kernels(tmp_path, reference, compiler, ["-O2"], SCALAR, step=65521, measure=True)
    assert_accurate(results)
    assert {widths for widths, *_ in results.values()} == {1}


@needs_compiler
@each_compiler
def test_no_value_makes_the_functions_undefined(tmp_path: Path, reference: Path, compiler: str) -> None:
    """Some float, infinity or NaN overflows a signed integer or is shifted or converted out of range."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run_kernels(tmp_path, reference, compiler, ["-O1", *sanitizers], AVX2, step=65521, link_flags=sanitizers)
