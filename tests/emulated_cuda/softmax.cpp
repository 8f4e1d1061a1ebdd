// SoftmaxWithLoss of patched Caffe as one function, on the CPU or on the emulated GPU:
// compiled with the sources that it calls, all in one.
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

// Scores are (n, classes, positions), labels (n, positions) or none; out come the loss
// and the gradient at the scores.
template <typename T>
T softmax_loss(bool gpu, const char* text, int n, int classes, int positions,
               const T* scores, const T* labels, T* gradient) {
  FLAGS_minloglevel = google::WARNING;
  Caffe::set_mode(gpu ? Caffe::GPU : Caffe::CPU);
  LayerParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &param));
  Blob<T> y(vector<int>{n, classes, positions}), t(vector<int>{n, positions}), loss;
  caffe_copy(y.count(), scores, y.mutable_cpu_data());
  vector<Blob<T>*> bottom{&y}, top{&loss};
  if (labels) {
    caffe_copy(t.count(), labels, t.mutable_cpu_data());
    bottom.push_back(&t);
  }
  SoftmaxWithLossLayer<T> layer(param);
  layer.SetUp(bottom, top);
  layer.Forward(bottom, top);
  layer.Backward(top, {true, false}, bottom);
  caffe_copy(y.count(), y.cpu_diff(), gradient);
  return loss.cpu_data()[0];
}

}  // namespace caffe

extern "C" double softmax_loss(int gpu, const char* text, int n, int classes,
                               int positions, const double* scores,
                               const double* labels, double* gradient) {
  return caffe::softmax_loss(gpu, text, n, classes, positions, scores, labels, gradient);
}
extern "C" float softmax_loss_float(int gpu, const char* text, int n, int classes,
                                    int positions, const float* scores,
                                    const float* labels, float* gradient) {
  return caffe::softmax_loss(gpu, text, n, classes, positions, scores, labels, gradient);
}
