//! Serves both queues of a network device: the job of its thread.
//!
//! Guarantees: neither direction starves the other (bounded passes, in turn). The tap is watched
//! only while the driver has room for what it may bring.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use super::rx::{Pass, Receiver};
use super::tap::Tap;
use super::tx::Transmitter;
use crate::complaints::Complaints;
use crate::device::{GuestBitmap, GuestMem};
use crate::interrupt::Interrupt;
use crate::queue::{DeviceQueue, QueueFault};
use crate::worker::{Control, Job, Sources};

const RX_KICK: Sources = 1;
const TX_KICK: Sources = 2;
const TAP: Sources = 4;

pub(super) struct NetJob<B: GuestBitmap> {
    pub mem: GuestMem<B>,
    pub interrupt: Arc<dyn Interrupt>,
    pub tap: Arc<Tap>,
    pub rx: DeviceQueue,
    pub tx: DeviceQueue,
    pub receiver: Receiver,
    pub transmitter: Transmitter,
    /// The driver has too few receive buffers, and the tap is not watched.
    pub starved: bool,
    /// For the log.
    pub name: String,
    pub complaints: Arc<Complaints>,
}

impl<B: GuestBitmap> Job for NetJob<B> {
    fn sources(&self) -> Vec<(Sources, RawFd)> {
        vec![
            (RX_KICK, self.rx.kick.as_raw_fd()),
            (TX_KICK, self.tx.kick.as_raw_fd()),
            (TAP, self.tap.as_fd().as_raw_fd()),
        ]
    }

    fn run(&mut self, ready: Sources, control: &Control) -> Result<Sources, QueueFault> {
        let guard = self.mem.memory();
        let mem: &GuestMemoryMmap<B> = &guard;
        let mut again = 0;
        // A kick of the receive queue says nothing unless it was waited for.
        if ready & TAP != 0 || (ready & RX_KICK != 0 && self.starved) {
            let result = self.receive(mem, control);
            // Frames that were delivered before a fault are the driver's all the same.
            signal(self.interrupt.as_ref(), &mut self.rx, mem)?;
            again |= result?;
        }
        if ready & TX_KICK != 0 {
            let result = self.transmit(mem);
            signal(self.interrupt.as_ref(), &mut self.tx, mem)?;
            again |= result?;
        }
        Ok(again)
    }

    fn failed(&mut self, fault: &QueueFault) {
        if let Some(swallowed) = self.complaints.allowed() {
            let interface = &self.name;
            tracing::warn!(
                interface, %fault, swallowed,
                "a network driver's mistake: the device stops until it is reset"
            );
        }
        self.interrupt.needs_reset();
    }
}

impl<B: GuestBitmap> NetJob<B> {
    fn receive(
        &mut self,
        mem: &GuestMemoryMmap<B>,
        control: &Control,
    ) -> Result<Sources, QueueFault> {
        if self.starved {
            self.watch_tap(control, true);
        }
        self.rx.disable_notification(mem)?;
        match self.receiver.pass(mem, &mut self.rx, self.tap.as_fd())? {
            Pass::More => Ok(TAP),
            Pass::Dry => Ok(0),
            Pass::Refused(error) => {
                // An interface that is down, mostly; the kernel reports it when it is up again.
                tracing::debug!(%error, "the tap gives no frames");
                Ok(0)
            }
            Pass::NoBuffers => {
                if self.rx.enable_notification(mem)? {
                    return Ok(TAP);
                }
                self.watch_tap(control, false);
                Ok(0)
            }
        }
    }

    fn watch_tap(&mut self, control: &Control, on: bool) {
        self.starved = !on;
        if let Err(error) = control.watch(TAP, self.tap.as_fd().as_raw_fd(), on) {
            tracing::error!(%error, "cannot change whether the tap is watched");
        }
    }

    fn transmit(&mut self, mem: &GuestMemoryMmap<B>) -> Result<Sources, QueueFault> {
        self.tx.disable_notification(mem)?;
        if self.transmitter.pass(mem, &mut self.tx, self.tap.as_fd())?
            || self.tx.enable_notification(mem)?
        {
            return Ok(TX_KICK);
        }
        Ok(0)
    }

    /// Returns to the queue what was taken and not used, before the device rests.
    pub fn settle(&mut self) {
        self.receiver.give_back(&mut self.rx);
        self.starved = false;
    }
}

fn signal<B: GuestBitmap>(
    interrupt: &dyn Interrupt,
    queue: &mut DeviceQueue,
    mem: &GuestMemoryMmap<B>,
) -> Result<(), QueueFault> {
    if queue.wants_interrupt(mem)? {
        interrupt.signal_queue(queue.index);
    }
    Ok(())
}
