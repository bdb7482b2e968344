//! How a guest ends: ACPI's reset and sleep registers, and the ways that came before them; and
//! the power button, by which it is asked to.
//!
//! Guarantees: a guest's wish to reset or to power off is reported once, as a [`PowerEvent`], to
//! whoever runs the vCPUs; every other access is harmless. A press of the button is kept until
//! the guest has read it.

use std::sync::atomic::{AtomicU8, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::acpi::{GED_POWER_BUTTON, SLEEP_TYPE_S5};
use crate::machine::PortMap;

/// A guest's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Start again.
    Reset,
    /// Soft-off.
    Shutdown,
}

/// The i8042's command port. There is no keyboard controller; but `reboot=k`, which Firecracker's
/// default command line has, pulses the reset line with it.
const I8042_COMMAND: u16 = 0x64;
const I8042_PULSE_RESET: u8 = 0xFE;
/// The PIIX reset control register.
const RESET_CONTROL: u16 = 0xCF9;
const RESET_CONTROL_RESET_CPU: u8 = 1 << 2;
/// ACPI 6.5, 4.8.3.7: SLP_EN and SLP_TYPx of the sleep control register.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// The guest writes `value` to `port`. None: the write means nothing here.
pub fn write_port(ports: &PortMap, port: u16, value: u8) -> Option<PowerEvent> {
    if port == ports.acpi_reset && value == ports.acpi_reset_value {
        return Some(PowerEvent::Reset);
    }
    if port == ports.acpi_sleep_control {
        let soft_off = SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
        return (value & (7 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE) == soft_off)
            .then_some(PowerEvent::Shutdown);
    }
    match port {
        I8042_COMMAND if value == I8042_PULSE_RESET => Some(PowerEvent::Reset),
        RESET_CONTROL if value & RESET_CONTROL_RESET_CPU != 0 => Some(PowerEvent::Reset),
        _ => None,
    }
}

/// What the guest reads at `port`. None: not ours.
pub fn read_port(ports: &PortMap, port: u16) -> Option<u8> {
    match port {
        _ if port == ports.acpi_reset || port == ports.acpi_sleep_control => Some(0),
        // WAK_STS clear: the machine has not slept.
        _ if port == ports.acpi_sleep_status => Some(0),
        // Input buffer empty: `reboot=k` waits for that.
        I8042_COMMAND => Some(0),
        _ => None,
    }
}

/// The generic event device: an interrupt, and a byte that says why.
pub struct EventDevice {
    pending: AtomicU8,
    irq: EventFd,
}

impl EventDevice {
    /// An event device whose interrupt is `irq`.
    pub fn new(irq: EventFd) -> EventDevice {
        EventDevice {
            pending: AtomicU8::new(0),
            irq,
        }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn press_power_button(&self) -> std::io::Result<()> {
        self.pending.fetch_or(GED_POWER_BUTTON, Ordering::AcqRel);
        self.irq.write(1)
    }

    /// The guest reads what happened, and so takes it.
    pub fn read(&self, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = self.pending.swap(0, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::{CpuModel, Machine, Topology};

    fn ports() -> PortMap {
        Machine::plan(
            64 << 20,
            Topology::one_socket(1, false),
            CpuModel::default(),
            &[],
        )
        .unwrap()
        .ports
    }

    #[test]
    fn linux_s5_is_a_shutdown_and_other_sleep_states_are_nothing() {
        let ports = ports();
        let sleep = |value| write_port(&ports, ports.acpi_sleep_control, value);
        assert_eq!(sleep(5 << 2 | 1 << 5), Some(PowerEvent::Shutdown));
        assert_eq!(sleep(3 << 2 | 1 << 5), None);
        assert_eq!(sleep(5 << 2), None);
    }

    #[test]
    fn every_way_that_linux_resets_a_pc_is_a_reset() {
        let ports = ports();
        for (port, value) in [
            (ports.acpi_reset, 1),
            (0x64, 0xFE),
            (0xCF9, 0x0E),
            (0xCF9, 6),
        ] {
            assert_eq!(
                write_port(&ports, port, value),
                Some(PowerEvent::Reset),
                "{port:#x}"
            );
        }
        for (port, value) in [
            (ports.acpi_reset, 0),
            (0x64, 0x20),
            (0xCF9, 2),
            (0x80, 0xFE),
        ] {
            assert_eq!(write_port(&ports, port, value), None, "{port:#x}");
        }
    }

    #[test]
    fn a_press_is_read_once() {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let device = EventDevice::new(irq.try_clone().unwrap());
        device.press_power_button().unwrap();
        device.press_power_button().unwrap();
        assert_eq!(irq.read().unwrap(), 2);
        let mut data = [0xFF; 4];
        device.read(&mut data);
        assert_eq!(data, [1, 0, 0, 0]);
        device.read(&mut data);
        assert_eq!(data, [0; 4]);
        device.read(&mut []);
    }
}
