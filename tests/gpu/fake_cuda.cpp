// Registers a CUDA device with a torch that was built without CUDA. The device computes nothing: it
// has the guards and hooks that autograd asks for when fake tensors are on "cuda".

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

namespace {

constexpr c10::DeviceIndex kDevices = 1;
using NoDevice = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;

// torch's own guard for tests of guards, with streams and events: there is nothing to wait for.
class StreamlessGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return none_.getDevice(); }
  void setDevice(c10::Device device) const override { none_.setDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { none_.uncheckedSetDevice(device); }
  c10::Device exchangeDevice(c10::Device device) const override { return none_.exchangeDevice(device); }
  c10::Stream getStream(c10::Device device) const override {
    return none_.getStream(device.has_index() ? device : none_.getDevice());
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return none_.exchangeStream(stream); }
  bool queryStream(const c10::Stream&) const override { return true; }
  bool queryEvent(void*) const override { return true; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}

 private:
  NoDevice none_;
};

const c10::impl::DeviceGuardImplRegistrar registered(c10::DeviceType::CUDA, new StreamlessGuard());

} // namespace

namespace at {

// What torch asks of "the CUDA library": that it is there, and which device is the current one.
class CUDAHooks final : public CUDAHooksInterface {
 public:
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return kDevices; }
  DeviceIndex deviceCount() const override { return kDevices; }
  DeviceIndex current_device() const override { return NoDevice::getDeviceIndex(); }
  DeviceIndex getCurrentDevice() const override { return NoDevice::getDeviceIndex(); }
  void setCurrentDevice(DeviceIndex device) const override { NoDevice::setDeviceIndex(device); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    const DeviceIndex before = NoDevice::getDeviceIndex();
    NoDevice::setDeviceIndex(device);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    return detail::getDefaultCPUGenerator();
  }
  void deviceSynchronize(DeviceIndex) const override {}
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CUDAHooks)

} // namespace at
