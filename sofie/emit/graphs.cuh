// The launches of a call as a CUDA graph: one act of the host instead of one for each kernel.

namespace detail {

// Frees what a handle of CUDA stands for.
struct DestroyStream {
   void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};

struct DestroyGraph {
   void operator()(cudaGraph_t graph) const noexcept { cudaGraphDestroy(graph); }
};

struct DestroyGraphExec {
   void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};

template <class Handle, class Free> using Owner = std::unique_ptr<std::remove_pointer_t<Handle>, Free>;

// Whether somebody captures what comes to a stream.
inline bool captures(cudaStream_t stream)
{
   cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
   check(cudaStreamIsCapturing(stream, &status), "the stream");
   return status != cudaStreamCaptureStatusNone;
}

// A graph for each of the last few sets of arguments, pointers and sizes, since they stand in it. A graph is not run
// twice at once: CUDA puts the second run behind the first.
template <std::size_t N> class Graphs {
public:
   using Arguments = std::array<std::uintptr_t, N>;

   // Runs what `launch` puts on the stream that it is given. The first run of a set of arguments allocates memory of
   // the host.
   template <class Launch> void run(const Arguments &arguments, cudaStream_t stream, const Launch &launch)
   {
      const cudaGraphExec_t graph = graph_for(arguments, launch);
      check(cudaGraphLaunch(graph, stream), "the graph of the launches");
   }

private:
   static constexpr std::size_t most = 8;

   struct Entry {
      Arguments arguments;
      Owner<cudaGraphExec_t, DestroyGraphExec> graph;
   };

   template <class Launch> cudaGraphExec_t graph_for(const Arguments &arguments, const Launch &launch)
   {
      for (const Entry &entry : entries_)
         if (entry.arguments == arguments)
            return entry.graph.get();
      Entry made{arguments, captured(launch)};
      if (entries_.size() < most) {
         entries_.push_back(std::move(made));
         return entries_.back().graph.get();
      }
      Entry &oldest = entries_[oldest_];
      oldest_ = (oldest_ + 1) % most;
      oldest = std::move(made);
      return oldest.graph.get();
   }

   // Captures on a stream of its own, which waits for nobody and nobody for it.
   template <class Launch> Owner<cudaGraphExec_t, DestroyGraphExec> captured(const Launch &launch)
   {
      if (!stream_) {
         cudaStream_t stream = nullptr;
         check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream to capture");
         stream_.reset(stream);
      }
      check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "the capture of the launches");
      cudaGraph_t graph = nullptr;
      try {
         launch(stream_.get());
      } catch (...) { // names the kernel
         cudaStreamEndCapture(stream_.get(), &graph);
         const Owner<cudaGraph_t, DestroyGraph> unfinished(graph);
         cudaGetLastError();
         throw;
      }
      check(cudaStreamEndCapture(stream_.get(), &graph), "the capture of the launches");
      const Owner<cudaGraph_t, DestroyGraph> recorded(graph);
      cudaGraphExec_t made = nullptr;
      check(cudaGraphInstantiateWithFlags(&made, graph, 0), "the graph of the launches");
      return Owner<cudaGraphExec_t, DestroyGraphExec>(made);
   }

   Owner<cudaStream_t, DestroyStream> stream_;
   std::vector<Entry> entries_;
   std::size_t oldest_ = 0;
};

} // namespace detail
