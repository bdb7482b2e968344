//! The state driver's guests on KVM.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use crate::action::Action;
use crate::devices::console::pump_input;
use crate::driver::{Launcher, Life, Message, Request};
use crate::guest::{Guest, GuestError, Surroundings};
use crate::kvm::vcpu::GuestExit;
use crate::resources::GuestPlan;

/// What a user types to end a guest in the foreground, as in QEMU.
const ESCAPE: [u8; 2] = [0x01, b'x'];

/// Makes guests on KVM.
pub struct KvmLauncher {
    /// When the VMM started, if the guest's boot is to be timed.
    pub boot_timer: Option<Instant>,
    /// Where what is typed to end the guest goes; None: standard input is not the guest's.
    pub stdin: Option<SyncSender<Message>>,
}

impl Launcher for KvmLauncher {
    type Guest = Guest;

    fn launch(
        &mut self,
        plan: &mut GuestPlan,
        on_exit: Arc<dyn Fn(GuestExit) + Send + Sync>,
    ) -> Result<Guest, GuestError> {
        let surroundings = Surroundings {
            on_exit,
            boot_timer: self.boot_timer,
        };
        let guest = Guest::start(plan, surroundings)?;
        if let Some(driver) = self.stdin.take() {
            attach_stdin(&guest, driver).map_err(|source| GuestError::Host {
                id: "standard input".to_owned(),
                source,
            })?;
        }
        Ok(guest)
    }
}

/// Starts the thread that brings standard input to the guest's serial port.
fn attach_stdin(guest: &Guest, driver: SyncSender<Message>) -> io::Result<()> {
    let serial = guest.serial();
    std::thread::Builder::new()
        .name("berth_stdin".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            let mut last = 0;
            pump_input(&serial, io::stdin(), |typed| {
                let escaped = (last == ESCAPE[0] && typed.first() == Some(&ESCAPE[1]))
                    || typed.windows(2).any(|pair| pair == ESCAPE);
                last = typed.last().copied().unwrap_or(last);
                if escaped {
                    let (reply, _) = sync_channel(1);
                    let request = Request {
                        action: Action::Stop,
                        request_id: None,
                        reply,
                    };
                    // The driver has gone: the VMM is ending anyway.
                    let _ = driver.send(Message::Request(Box::new(request)));
                }
                !escaped
            });
        })?;
    Ok(())
}

impl Life for Guest {
    fn pause(&mut self) -> Result<(), GuestError> {
        Guest::pause(self)
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        Guest::resume(self)
    }

    fn press_power_button(&self) -> Result<(), GuestError> {
        Guest::press_power_button(self)
    }
}
