// What the library of the `cpu` kernel set registers with torch. It is one source, since torch's headers take most of the
// time that it takes to compile.

#include "decoder_layer.h"
#include "latent_layer.h"
#include "mixture.h"

TORCH_LIBRARY(mszoo, m) {
  using namespace mszoo;
  const auto given = torch::init<Named<at::Tensor>, Named<int64_t>, Named<double>, Named<std::string>>();
  m.class_<DecoderLayer>("DecoderLayer").def(given).def("run", &DecoderLayer::run);
  m.class_<LatentLayer>("LatentLayer")
      .def(given)
      .def("before", &LatentLayer::before)
      .def("decode", &LatentLayer::decode)
      .def("after", &LatentLayer::after);
  m.class_<Mixture>("Mixture").def(given).def("run", &Mixture::run);
}
