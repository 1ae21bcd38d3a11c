#ifndef SOFIE_FUNCTOR
#define SOFIE_FUNCTOR

// What RDataFrame's DefineSlot calls with N columns of one type:
//    df.DefineSlot("score", SofieFunctor<7, SOFIE_model::Session>(df.GetNSlots()), {"pt", "eta", ...})
// The weights are those of `file`, else of the model's own place, and shared by all slots. The type of `nslots` is a
// parameter so that a function of this name in ROOT, brought in by a using-directive, is the worse match or the more
// specialised one, and never an ambiguity.
template <std::size_t N, class Session, class Column = float, class Slots = unsigned>
typename Session::template Functor<N, Column> SofieFunctor(Slots nslots, const std::string &file = "")
{
   return {static_cast<unsigned>(nslots), file};
}

#endif // SOFIE_FUNCTOR
