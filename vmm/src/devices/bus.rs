//! From an address or a port to a device.
//!
//! Guarantees: every access of every width at every address is answered. What no device claims
//! reads as all ones and swallows writes, as on a real bus. A device is behind a lock of its own,
//! so that vCPUs meet only where they touch the same one; the bus itself never changes while vCPUs
//! run.
//!
//! There is one `match` on devices in the VMM, and it is here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_virtio::MmioTransport;

use super::console::SerialDevice;
use super::power::{self, EventDevice, PowerEvent};
use crate::machine::Machine;
use crate::machine::address_map::VIRTIO_MMIO_SIZE;
use crate::memory::DirtyBitmap;

/// A virtio device and its registers.
pub type Transport = MmioTransport<DirtyBitmap>;

/// Firecracker's boot timer: what the guest writes, and what it means.
const BOOT_COMPLETE: u8 = 123;
const SERIAL_PORTS: u16 = 8;

/// All devices of one machine.
pub struct Bus {
    machine: Arc<Machine>,
    serial: Arc<Mutex<SerialDevice>>,
    events: Arc<EventDevice>,
    /// In the order of the machine's slots.
    virtio: Vec<Mutex<Transport>>,
    boot_timer: Option<Instant>,
    /// A guest's boot is timed once, however often it says that it has booted.
    booted: AtomicBool,
}

impl Bus {
    /// A bus with the machine's devices; `virtio` in the order of its slots. `boot_timer` is when
    /// the VMM started, if the guest's boot is to be timed.
    pub fn new(
        machine: Arc<Machine>,
        serial: Arc<Mutex<SerialDevice>>,
        events: Arc<EventDevice>,
        virtio: Vec<Transport>,
        boot_timer: Option<Instant>,
    ) -> Bus {
        let virtio = virtio.into_iter().map(Mutex::new).collect();
        Bus {
            machine,
            serial,
            events,
            virtio,
            boot_timer,
            booted: AtomicBool::new(false),
        }
    }

    /// The virtio devices, in the order of the machine's slots.
    pub fn virtio(&self) -> impl Iterator<Item = MutexGuard<'_, Transport>> {
        self.virtio.iter().map(lock)
    }

    /// The device that the power button belongs to.
    pub fn events(&self) -> &EventDevice {
        &self.events
    }

    /// The guest reads from a port.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some(register) = self.serial_register(port) {
            let mut serial = lock(&self.serial);
            for byte in data {
                *byte = serial.read(register);
            }
        } else if let Some(value) = power::read_port(&self.machine.ports, port)
            && let Some(first) = data.first_mut()
        {
            *first = value;
        }
    }

    /// The guest writes to a port. Some: it wishes to end.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Option<PowerEvent> {
        if let Some(register) = self.serial_register(port) {
            let mut serial = lock(&self.serial);
            // A string instruction (`rep outsb`) brings many bytes for one register.
            for byte in data {
                serial.write(register, *byte);
            }
            return None;
        }
        data.first()
            .and_then(|value| power::write_port(&self.machine.ports, port, *value))
    }

    fn serial_register(&self, port: u16) -> Option<u8> {
        port.checked_sub(self.machine.ports.serial)
            .filter(|register| *register < SERIAL_PORTS)
            .and_then(|register| u8::try_from(register).ok())
    }

    /// The guest reads from memory that is no RAM.
    pub fn read_mmio(&self, address: u64, data: &mut [u8]) {
        if let Some((transport, offset)) = self.transport(address) {
            lock(transport).read(offset, data);
        } else if self.machine.map.ged.contains(address) {
            if address == self.machine.map.ged.start {
                self.events.read(data);
            } else {
                data.fill(0);
            }
        } else {
            data.fill(0xFF);
        }
    }

    /// The guest writes to memory that is no RAM.
    pub fn write_mmio(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.transport(address) {
            lock(transport).write(offset, data);
        } else if address == self.machine.map.boot_timer.start
            && data.first() == Some(&BOOT_COMPLETE)
            && let Some(start) = self.boot_timer
            && !self.booted.swap(true, Ordering::Relaxed)
        {
            let elapsed = start.elapsed();
            tracing::info!(
                us = elapsed.as_micros() as u64,
                "Guest-boot-time = {:>6} us {} ms",
                elapsed.as_micros(),
                elapsed.as_millis()
            );
        }
    }

    fn transport(&self, address: u64) -> Option<(&Mutex<Transport>, u64)> {
        let within = address.checked_sub(self.machine.map.virtio_mmio.start)?;
        let index = usize::try_from(within / VIRTIO_MMIO_SIZE).ok()?;
        Some((self.virtio.get(index)?, within % VIRTIO_MMIO_SIZE))
    }
}

/// A device's lock. A panic in a device is a bug, and is no reason to lose the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::console::{Console, Sink};
    use crate::machine::{CpuModel, Topology};

    fn bus() -> Bus {
        let machine = Machine::plan(
            64 << 20,
            Topology::one_socket(1, false),
            CpuModel::default(),
            &[],
        );
        let irq = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let null = std::fs::File::create("/dev/null").unwrap();
        let console = Console::start(Sink::Stream(null)).unwrap();
        let serial = Arc::new(Mutex::new(SerialDevice::new(irq(), &console)));
        let events = Arc::new(EventDevice::new(irq()));
        Bus::new(
            Arc::new(machine.unwrap()),
            serial,
            events,
            Vec::new(),
            Some(Instant::now()),
        )
    }

    #[test]
    fn a_guest_that_says_all_the_time_that_it_has_booted_is_timed_once() {
        let bus = bus();
        let timer = bus.machine.map.boot_timer.start;
        bus.write_mmio(timer, &[0]);
        assert!(!bus.booted.load(Ordering::Relaxed), "not the value");
        bus.write_mmio(timer, &[BOOT_COMPLETE]);
        assert!(bus.booted.load(Ordering::Relaxed));
        bus.write_mmio(timer, &[BOOT_COMPLETE]);
    }

    /// Cloud Hypervisor's #8098 and #8506: a width or an address that no device expected.
    #[test]
    fn every_width_at_every_address_is_answered() {
        let bus = bus();
        let map = &bus.machine.map;
        let edges = [
            0,
            map.virtio_mmio.start,
            map.virtio_mmio.end() - 1,
            map.ged.start,
            map.ged.end() - 1,
            map.boot_timer.start,
            u64::MAX,
        ];
        for address in edges {
            for width in 0..=8 {
                for address in [address.wrapping_sub(1), address, address.wrapping_add(1)] {
                    let mut data = vec![0; width];
                    bus.read_mmio(address, &mut data);
                    bus.write_mmio(address, &data);
                }
            }
        }
        for port in 0..=u16::MAX {
            for width in [0, 1, 2, 4, 8] {
                let mut data = vec![0; width];
                bus.read_port(port, &mut data);
                let ends = bus.write_port(port, &vec![0; width]);
                assert_eq!(ends, None, "zeros to port {port:#x} of {width} bytes");
            }
        }
        let mut nothing_there = [0; 8];
        bus.read_mmio(u64::MAX - 8, &mut nothing_there);
        assert_eq!(nothing_there, [0xff; 8], "what nobody claims is all ones");
    }
}
