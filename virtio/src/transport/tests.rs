//! The register machine, driven rightly and wrongly, with a device that only takes notes.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_queue::QueueState;

use super::mmio::QUEUE_NOTIFY;
use crate::device::{Activation, DeviceError, VirtioDevice};
use crate::interrupt::Interrupt;
use crate::testkit::*;

const OFFERED: u64 = VERSION_1 | EVENT_IDX | 0b101;

/// What the transport did to the device.
#[derive(Default)]
struct Notes {
    activations: Vec<(u64, Vec<(u16, QueueState)>)>,
    resets: usize,
    interrupt: Option<Arc<dyn Interrupt>>,
    config: Vec<u8>,
}

#[derive(Clone, Default)]
struct NoteTaker(Arc<Mutex<Notes>>);

impl VirtioDevice<()> for NoteTaker {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[64, 16]
    }

    fn config(&self) -> Vec<u8> {
        self.0.lock().unwrap().config.clone()
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.lock().unwrap().config[offset..offset + data.len()].copy_from_slice(data);
    }

    fn activate(&mut self, activation: Activation<()>) -> Result<(), DeviceError> {
        let mut notes = self.0.lock().unwrap();
        let queues = activation
            .queues
            .iter()
            .map(|queue| (queue.index, queue.state()))
            .collect();
        notes.activations.push((activation.features, queues));
        notes.interrupt = Some(activation.interrupt);
        Ok(())
    }

    fn pause(&mut self) -> Result<Vec<(u16, QueueState)>, DeviceError> {
        Ok(Vec::new())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.0.lock().unwrap().resets += 1;
    }
}

fn device() -> (NoteTaker, Driver) {
    let notes = NoteTaker::default();
    notes.0.lock().unwrap().config = (1..=12).collect();
    (notes.clone(), Driver::new(notes))
}

fn activations(notes: &NoteTaker) -> usize {
    notes.0.lock().unwrap().activations.len()
}

#[test]
fn the_identity_registers_are_those_of_version_2() {
    let (_, mut driver) = device();
    assert_eq!(driver.read(0x00), 0x7472_6976);
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 42);
    assert_eq!(driver.read(0xb0), u32::MAX, "no shared memory");
}

#[test]
fn a_driver_that_keeps_the_rules_activates_the_device_once_with_what_it_negotiated() {
    let (notes, mut driver) = device();
    driver.start(VERSION_1 | 1, 16);
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
    driver.add_status(DRIVER_OK);
    let notes = notes.0.lock().unwrap();
    assert_eq!(notes.activations.len(), 1);
    let (features, queues) = &notes.activations[0];
    assert_eq!(*features, VERSION_1 | 1);
    let seen: Vec<_> = queues
        .iter()
        .map(|(index, state)| (*index, state.size, state.desc_table))
        .collect();
    assert_eq!(seen, [(0, 16, 0x10000), (1, 16, 0x20000)]);
    assert!(!queues[0].1.event_idx_enabled);
}

#[test]
fn all_status_bits_in_one_write_are_taken_in_their_order() {
    let (notes, mut driver) = device();
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
    assert_eq!(activations(&notes), 1);
}

#[test]
fn features_ok_is_refused_for_what_was_not_offered_or_without_version_1() {
    for features in [0, EVENT_IDX, VERSION_1 | 2, VERSION_1 | 1 << 63] {
        let (notes, mut driver) = device();
        driver.negotiate(features);
        assert_eq!(driver.read(STATUS) & FEATURES_OK, 0, "{features:#x}");
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.read(STATUS) & DRIVER_OK, 0, "{features:#x}");
        assert_eq!(activations(&notes), 0);
    }
}

#[test]
fn status_steps_cannot_be_skipped_or_taken_back() {
    let (notes, mut driver) = device();
    driver.write(STATUS, DRIVER);
    assert_eq!(driver.read(STATUS), 0);
    driver.negotiate(VERSION_1);
    driver.write(STATUS, ACKNOWLEDGE);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    driver.write(
        STATUS,
        0x30 | ACKNOWLEDGE | DRIVER | FEATURES_OK | NEEDS_RESET,
    );
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK,
        "not the driver's bits"
    );
    driver.add_status(128);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.read(STATUS) & DRIVER_OK, 0, "FAILED ends it");
    assert_eq!(activations(&notes), 0);
}

#[test]
fn features_are_frozen_by_features_ok() {
    let (notes, mut driver) = device();
    driver.negotiate(VERSION_1);
    driver.write(0x24, 0);
    driver.write(0x20, u32::MAX);
    driver.add_status(DRIVER_OK);
    assert_eq!(notes.0.lock().unwrap().activations[0].0, VERSION_1);
}

#[test]
fn the_feature_window_beyond_64_bits_is_empty() {
    let (_, mut driver) = device();
    for (select, expected) in [(0, OFFERED as u32), (1, 1), (2, 0), (u32::MAX, 0)] {
        driver.write(0x14, select);
        assert_eq!(driver.read(0x10), expected, "select {select}");
    }
}

#[test]
fn a_queue_that_does_not_exist_is_size_0_and_takes_nothing() {
    let (notes, mut driver) = device();
    driver.negotiate(VERSION_1);
    for select in [2, 0xffff, u32::MAX] {
        driver.write(0x30, select);
        assert_eq!(driver.read(0x34), 0);
        for register in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x44] {
            driver.write(register, 1);
        }
        assert_eq!(driver.read(0x44), 0);
        driver.write(QUEUE_NOTIFY, select);
    }
    assert_eq!(driver.read(STATUS) & NEEDS_RESET, 0);
    driver.add_status(DRIVER_OK);
    assert_eq!(notes.0.lock().unwrap().activations[0].1, []);
}

#[test]
fn a_queue_that_is_wrong_in_any_way_is_refused_when_it_is_enabled() {
    type Spoil = fn(&mut Rings);
    let wrongs: &[(&str, Spoil)] = &[
        ("size 0", |rings| rings.size = 0),
        ("size 3", |rings| rings.size = 3),
        ("size over the maximum", |rings| rings.size = 128),
        ("size 0xffff", |rings| rings.size = u16::MAX),
        ("unaligned descriptors", |rings| rings.desc += 8),
        ("unaligned available ring", |rings| rings.avail += 1),
        ("unaligned used ring", |rings| rings.used += 2),
        ("descriptors outside", |rings| rings.desc = MEMORY),
        ("descriptors over the end", |rings| rings.desc = MEMORY - 16),
        ("available ring at 0", |rings| rings.avail = 0),
        ("available ring in a hole", |rings| {
            rings.avail = SECOND_REGION - 64
        }),
        ("used ring that wraps", |rings| rings.used = u64::MAX - 3),
        ("used ring over descriptors", |rings| {
            rings.used = rings.desc
        }),
        ("available ring over used ring", |rings| {
            rings.avail = rings.used + 4
        }),
    ];
    for (name, spoil) in wrongs {
        let (notes, mut driver) = device();
        driver.negotiate(VERSION_1);
        let mut rings = driver.place_rings(0, 64);
        spoil(&mut rings);
        driver.configure_queue(0, &rings);
        assert_eq!(driver.read(0x44), 0, "{name}: is not ready");
        assert_ne!(driver.read(STATUS) & NEEDS_RESET, 0, "{name}: says so");
        driver.add_status(DRIVER_OK);
        assert_eq!(activations(&notes), 0, "{name}: does not start");
        driver.write(STATUS, 0);
        driver.start(VERSION_1, 16);
        assert_eq!(activations(&notes), 1, "{name}: starts after a reset");
    }
}

#[test]
fn an_enabled_queue_is_frozen_and_can_be_disabled_before_driver_ok_only() {
    let (notes, mut driver) = device();
    driver.negotiate(VERSION_1);
    driver.enable_queue(0, 16);
    driver.write(0x80, 0xdead_0000);
    driver.write(0x38, 8);
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 0);
    driver.enable_queue(0, 32);
    driver.add_status(DRIVER_OK);
    driver.write(0x38, 4);
    driver.write(0x84, 7);
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 1, "after DRIVER_OK nothing moves");
    let notes = notes.0.lock().unwrap();
    let queue = notes.activations[0].1[0].1;
    assert_eq!((queue.size, queue.desc_table), (32, 0x10000));
}

#[test]
fn queues_cannot_be_configured_before_features_ok() {
    let (_, mut driver) = device();
    driver.add_status(ACKNOWLEDGE);
    driver.add_status(DRIVER);
    let rings = driver.place_rings(0, 16);
    driver.configure_queue(0, &rings);
    assert_eq!(driver.read(0x44), 0);
}

#[test]
fn a_reset_forgets_everything_and_silences_old_doorbells() {
    let (notes, mut driver) = device();
    driver.start(VERSION_1, 16);
    driver.kick(0);
    notes
        .0
        .lock()
        .unwrap()
        .interrupt
        .clone()
        .unwrap()
        .signal_queue(0);
    assert_eq!(driver.read(0x60), 1);
    driver.write(STATUS, 0);
    assert_eq!(notes.0.lock().unwrap().resets, 1);
    assert_eq!((driver.read(STATUS), driver.read(0x60)), (0, 0));
    driver.write(0x30, 0);
    assert_eq!(driver.read(0x44), 0);
    let doorbell = driver.mmio.notify_eventfd(0).unwrap();
    assert_eq!(
        doorbell.read().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[test]
fn a_notification_reaches_its_queues_eventfd_only() {
    let (_, mut driver) = device();
    driver.start(VERSION_1, 16);
    driver.write(QUEUE_NOTIFY, 1);
    assert!(driver.mmio.notify_eventfd(0).unwrap().read().is_err());
    assert_eq!(driver.mmio.notify_eventfd(1).unwrap().read().unwrap(), 1);
    assert!(driver.mmio.notify_eventfd(2).is_none());
}

#[test]
fn a_config_change_raises_generation_status_and_line() {
    let (notes, mut driver) = device();
    driver.start(VERSION_1, 16);
    let before = driver.read(0xfc);
    notes
        .0
        .lock()
        .unwrap()
        .interrupt
        .clone()
        .unwrap()
        .signal_config();
    assert_eq!(driver.read(0xfc), before + 1);
    assert_eq!(driver.read(0x60), 2);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn the_configuration_space_is_read_in_any_width_and_zero_beyond_its_end() {
    let (_, mut driver) = device();
    let mut byte = [0; 1];
    driver.mmio.read(0x103, &mut byte);
    assert_eq!(byte, [4]);
    let mut odd = [0xff; 8];
    driver.mmio.read(0x107, &mut odd);
    assert_eq!(odd, [8, 9, 10, 11, 12, 0, 0, 0]);
    let mut far = [0xff; 4];
    driver.mmio.read(u64::MAX, &mut far);
    assert_eq!(far, [0; 4]);
}

#[test]
fn the_configuration_space_is_written_whole_or_not_and_never_without_a_driver() {
    let (notes, mut driver) = device();
    driver.mmio.write(0x100, &[9]);
    assert_eq!(notes.0.lock().unwrap().config[0], 1, "no driver yet");
    driver.negotiate(VERSION_1);
    driver.mmio.write(0x100, &[9, 8]);
    driver.mmio.write(0x10b, &[7, 7]);
    let config = notes.0.lock().unwrap().config.clone();
    assert_eq!((config[0], config[1], config[11]), (9, 8, 12));
}

#[test]
fn odd_accesses_to_registers_read_zero_and_write_nothing() {
    let (_, mut driver) = device();
    for width in [0, 1, 2, 3, 5, 8, 16] {
        let mut data = vec![0xff; width];
        driver.mmio.read(0, &mut data);
        assert_eq!(data, vec![0; width], "width {width}");
        driver.mmio.write(STATUS, &vec![1; width]);
    }
    let mut data = [0xff; 4];
    driver.mmio.read(2, &mut data);
    assert_eq!(data, [0; 4]);
    let mut straddling = [0xff; 8];
    driver.mmio.read(0xfc, &mut straddling);
    assert_eq!(straddling, [0; 8]);
    assert_eq!(driver.read(STATUS), 0);
}

#[test]
fn a_restored_transport_shows_the_driver_what_it_left() {
    let (_, mut first) = device();
    first.start(VERSION_1 | 1, 16);
    first.mmio.pause().unwrap();
    let state = first.mmio.save();
    let (notes, mut second) = device();
    second.mmio.restore(&state).unwrap();
    assert_eq!(second.mmio.save(), state);
    assert_eq!(notes.0.lock().unwrap().activations[0].0, VERSION_1 | 1);
}

#[test]
fn a_saved_state_that_no_driver_could_have_made_is_refused() {
    use super::TransportState;
    type Spoil = fn(&mut TransportState);
    let (_, mut driver) = device();
    driver.start(VERSION_1, 16);
    driver.mmio.pause().unwrap();
    let good = driver.mmio.save();
    let wrongs: &[(&str, Spoil)] = &[
        ("unknown status bits", |state| state.status |= 1 << 20),
        ("DRIVER_OK alone", |state| state.status = DRIVER_OK),
        ("features never offered", |state| {
            state.driver_features |= 1 << 40
        }),
        ("a queue too many", |state| {
            state.queues.push(state.queues[0])
        }),
        ("no queues", |state| state.queues.clear()),
        ("a queue too large", |state| state.queues[0].size = 4096),
        ("a queue elsewhere", |state| state.queues[1].used_ring = !3),
        ("another device", |state| state.device.device_type = 1),
        ("another configuration", |state| state.device.config.push(0)),
    ];
    for (name, spoil) in wrongs {
        let (_, mut other) = device();
        let mut state = good.clone();
        spoil(&mut state);
        assert!(other.mmio.restore(&state).is_err(), "{name}");
        assert_eq!(
            other.read(STATUS) & DRIVER_OK,
            0,
            "{name}: nothing was taken over"
        );
    }
}

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

fn access() -> impl Strategy<Value = Access> {
    let registers = prop::sample::select(vec![
        0x10u64, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x70, 0x70,
        0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xfc, 0x100, 0x108,
    ]);
    let offset = prop_oneof![8 => registers, 1 => 0u64..0x200, 1 => any::<u64>()];
    let value = prop_oneof![
        prop::sample::select(vec![
            0u32, 1, 3, 4, 8, 11, 15, 16, 0x10000, 0x18000, 0x1a000
        ]),
        any::<u32>(),
    ];
    prop_oneof![
        (offset.clone(), 0usize..10).prop_map(|(offset, width)| Access::Read(offset, width)),
        (offset.clone(), value)
            .prop_map(|(at, value)| Access::Write(at, value.to_le_bytes().into())),
        (offset, prop::collection::vec(any::<u8>(), 0..10))
            .prop_map(|(at, data)| Access::Write(at, data)),
    ]
}

proptest! {
    /// No sequence of accesses panics, skips a step, or starts the device twice.
    #[test]
    fn the_register_machine_keeps_its_promises(accesses in prop::collection::vec(access(), 0..80)) {
        let (notes, mut driver) = device();
        for access in accesses {
            match access {
                Access::Read(offset, width) => driver.mmio.read(offset, &mut vec![0; width]),
                Access::Write(offset, data) => driver.mmio.write(offset, &data),
            }
            let status = driver.read(STATUS);
            let ordered = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
            for pair in ordered.windows(2) {
                prop_assert!(status & pair[1] == 0 || status & pair[0] != 0, "status {status:#x}");
            }
            let notes = notes.0.lock().unwrap();
            prop_assert!(notes.activations.len() <= notes.resets + 1);
            for (features, queues) in &notes.activations {
                prop_assert_eq!(features & !OFFERED, 0);
                prop_assert_ne!(features & VERSION_1, 0);
                for (index, queue) in queues {
                    prop_assert!(queue.size.is_power_of_two());
                    prop_assert!(queue.size <= [64, 16][usize::from(*index)]);
                }
            }
        }
    }
}
