// Events through a network, as a plain loop or in an RDataFrame:
//
//    events bare|frame ours|ort EVENTS THREADS LIBRARY
//
// prints microseconds per event and the mean of the results. Columns are computed in the loop from the event's number,
// which is a small part of the time and the same for all.
#include "Model.hxx"

#include "onnxruntime.hxx"

#include <ROOT/RDataFrame.hxx>
#include <TH1D.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace {

constexpr unsigned width = 7;

float column(std::uint64_t event, unsigned k)
{
   std::uint64_t bits = (event * width + k + 1) * 0x9e3779b97f4a7c15u;
   bits ^= bits >> 31;
   bits *= 0xbf58476d1ce4e5b9u;
   bits ^= bits >> 29;
   return static_cast<float>(bits >> 40) * (4.f / (1 << 24)) - 2.f;
}

// ONNX Runtime on one event: the session is shared, buffers and the tensors around them are a thread's own.
class OrtEvent {
public:
   explicit OrtEvent(void *session) : session_(session), buffers_(new Buffers)
   {
      void *place = nullptr;
      ort::call(ort::create_cpu_memory_info, 0, 0, &place);
      ort::call(ort::create_run_options, &options_);
      ort::call(
          ort::create_tensor, place, static_cast<void *>(buffers_->x), sizeof buffers_->x, shape_in, 2ul, 1, &in_);
      ort::call(
          ort::create_tensor, place, static_cast<void *>(buffers_->y), sizeof buffers_->y, shape_out, 2ul, 1, &out_);
   }

   double operator()(const float *x)
   {
      for (unsigned k = 0; k < width; ++k)
         buffers_->x[k] = x[k];
      const char *const takes[] = {"features"}, *const gives[] = {"score"};
      void *const in[] = {in_};
      void *out[] = {out_};
      ort::call(
          ort::run_session,
          session_,
          static_cast<const void *>(options_),
          static_cast<const char *const *>(takes),
          static_cast<void *const *>(in),
          1ul,
          static_cast<const char *const *>(gives),
          1ul,
          static_cast<void **>(out));
      return static_cast<double>(buffers_->y[0]);
   }

private:
   struct Buffers {
      float x[width], y[1];
   };
   static constexpr std::int64_t shape_in[] = {1, width}, shape_out[] = {1, 1};

   void *session_, *options_ = nullptr, *in_ = nullptr, *out_ = nullptr;
   std::unique_ptr<Buffers> buffers_;
};

class OurEvent {
public:
   explicit OurEvent(const SOFIE_Model::Weights &weights) : session_(weights) {}
   double operator()(const float *x)
   {
      float y[1];
      session_.infer(x, y);
      return static_cast<double>(y[0]);
   }

private:
   SOFIE_Model::Session session_;
};

// The sum over a range of events.
template <class Event> double loop(Event event, std::uint64_t from, std::uint64_t to)
{
   double sum = 0;
   for (std::uint64_t e = from; e < to; ++e) {
      float x[width];
      for (unsigned k = 0; k < width; ++k)
         x[k] = column(e, k);
      sum += event(x);
   }
   return sum;
}

template <class Make> double bare(Make make, std::uint64_t events, unsigned threads)
{
   std::vector<double> sums(threads);
   std::vector<std::thread> workers;
   for (unsigned t = 0; t < threads; ++t)
      workers.emplace_back([&, t] { sums[t] = loop(make(), events * t / threads, events * (t + 1) / threads); });
   for (auto &worker : workers)
      worker.join();
   double sum = 0;
   for (const double part : sums)
      sum += part;
   return sum / static_cast<double>(events);
}

const std::vector<std::string> names = {"c0", "c1", "c2", "c3", "c4", "c5", "c6"};

template <class Score> double frame(Score score, std::uint64_t events)
{
   ROOT::RDF::RNode df = ROOT::RDataFrame(events);
   for (unsigned k = 0; k < width; ++k)
      df = df.Define(names[k], [k](ULong64_t event) { return column(event, k); }, {"rdfentry_"});
   auto scored = score(df);
   auto histogram = scored.Histo1D("DNN_Value");
   return histogram->GetMean();
}

} // namespace

int main(int, char **words)
{
   const std::string how = words[1], who = words[2];
   const auto events = static_cast<std::uint64_t>(std::atoll(words[3]));
   const auto threads = static_cast<unsigned>(std::atoi(words[4]));
   const SOFIE_Model::Weights weights;
   void *session = nullptr;
   if (who == "ort") {
      ort::load(words[5]);
      session = ort::session("Model.onnx", 1);
   }
   if (how == "frame" && threads > 1)
      ROOT::EnableImplicitMT(threads);
   const auto run = [&](std::uint64_t many) {
      if (how == "bare")
         return who == "ort" ? bare([&] { return OrtEvent(session); }, many, threads)
                             : bare([&] { return OurEvent(weights); }, many, threads);
      if (who == "ort")
         return frame(
             [&](ROOT::RDF::RNode df) {
                std::vector<OrtEvent> slots;
                for (unsigned k = 0; k < df.GetNSlots(); ++k)
                   slots.emplace_back(session);
                auto shared = std::make_shared<std::vector<OrtEvent>>(std::move(slots));
                return ROOT::RDF::RNode(df.DefineSlot(
                    "DNN_Value",
                    [shared](unsigned slot, float a, float b, float c, float d, float e, float f, float g) {
                       const float x[] = {a, b, c, d, e, f, g};
                       return (*shared)[slot](x);
                    },
                    names));
             },
             many);
      return frame(
          [&](ROOT::RDF::RNode df) {
             return ROOT::RDF::RNode(
                 df.DefineSlot("DNN_Value", SofieFunctor<width, SOFIE_Model::Session>(df.GetNSlots()), names));
          },
          many);
   };
   run(20000); // dictionaries, caches, clocks
   const auto start = std::chrono::steady_clock::now();
   const double mean = run(events);
   const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
   std::printf("%.6f %.12g\n", time.count() / static_cast<double>(events), mean);
}
