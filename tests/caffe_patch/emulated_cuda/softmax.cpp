// SoftmaxWithLoss of patched Caffe as a program, on the CPU or on the emulated GPU:
// compiled with the sources that it calls, all in one.
//
//     softmax cpu|gpu float|double PROTOTXT N CLASSES POSITIONS N_LABELS
//
// On standard input come scores (n, classes, positions) and labels (n, positions) or
// none; on standard output, the loss and the gradient at the scores.
#include <google/protobuf/text_format.h>

#include "blas.cu"
#include "src/caffe/blob.cpp"
#include "src/caffe/common.cpp"
#include "src/caffe/layers/loss_layer.cpp"
#include "src/caffe/layers/softmax_layer.cpp"
#include "src/caffe/layers/softmax_layer.cu"
#include "src/caffe/layers/softmax_loss_layer.cpp"
#include "src/caffe/layers/softmax_loss_layer.cu"
#include "src/caffe/syncedmem.cpp"
#include "src/caffe/util/math_functions.cpp"
#include "src/caffe/util/math_functions.cu"

namespace caffe {

REGISTER_LAYER_CLASS(Softmax);

template <typename T>
void run(const char* text, int n, int classes, int positions, int n_labels) {
  LayerParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &param));
  Blob<T> y(vector<int>{n, classes, positions}), t(vector<int>{n, positions}), loss;
  CHECK_EQ(fread(y.mutable_cpu_data(), sizeof(T), y.count(), stdin), y.count());
  vector<Blob<T>*> bottom{&y}, top{&loss};
  if (n_labels) {
    CHECK_EQ(fread(t.mutable_cpu_data(), sizeof(T), n_labels, stdin), t.count());
    bottom.push_back(&t);
  }
  SoftmaxWithLossLayer<T> layer(param);
  layer.SetUp(bottom, top);
  layer.Forward(bottom, top);
  layer.Backward(top, {true, false}, bottom);
  fwrite(loss.cpu_data(), sizeof(T), 1, stdout);
  fwrite(y.cpu_diff(), sizeof(T), y.count(), stdout);
}

}  // namespace caffe

int main(int argc, char** argv) {
  FLAGS_minloglevel = google::ERROR;
  CHECK_EQ(argc, 8);
  caffe::Caffe::set_mode(argv[1] == std::string("gpu") ? caffe::Caffe::GPU
                                                       : caffe::Caffe::CPU);
  const auto run = argv[2] == std::string("float") ? caffe::run<float>
                                                   : caffe::run<double>;
  run(argv[3], atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), atoi(argv[7]));
}
