//! From an address or a port to a device.
//!
//! Guarantees: every access of every width at every address is answered. What no device claims
//! reads as all ones and swallows writes, as on a real bus. A device is behind a lock of its own,
//! so that vCPUs meet only where they touch the same one; the bus itself never changes while vCPUs
//! run.
//!
//! There is one `match` on devices in the VMM, and it is here.

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
