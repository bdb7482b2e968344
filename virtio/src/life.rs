//! The states of a device that has one worker: Inactive, Paused, Running.
//!
//! Guarantees: the transitions of [`VirtioDevice`](crate::VirtioDevice) and no others; a device
//! that uses this writes none of them itself.

use crate::device::DeviceError;
use crate::worker::{Job, Worker};

/// Where a device is in its life, with the job that goes with it.
pub struct Life<J> {
    thread_name: String,
    stage: Stage<J>,
}

enum Stage<J> {
    Inactive,
    Paused(J),
    Running(Worker<J>),
}

impl<J: Job> Life<J> {
    /// An inactive device, whose thread will carry `name`.
    pub fn new(name: &str) -> Self {
        Self {
            thread_name: format!("virtio-{name}"),
            stage: Stage::Inactive,
        }
    }

    /// `Inactive` to `Paused`.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn prepare(&mut self, job: J) -> Result<(), DeviceError> {
        match self.stage {
            Stage::Inactive => self.stage = Stage::Paused(job),
            _ => return Err(self.wrong("activate")),
        }
        Ok(())
    }

    /// `Paused` to `Running`.
    ///
    /// # Errors
    /// `WrongState`, or `Host` if there is no thread to be had; still `Paused` then.
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        match std::mem::replace(&mut self.stage, Stage::Inactive) {
            Stage::Paused(job) => match Worker::start(&self.thread_name, job) {
                Ok(worker) => {
                    self.stage = Stage::Running(worker);
                    Ok(())
                }
                Err((job, source)) => {
                    self.stage = Stage::Paused(job);
                    Err(DeviceError::Host {
                        doing: "start a device's thread",
                        source,
                    })
                }
            },
            other => {
                self.stage = other;
                Err(self.wrong("resume"))
            }
        }
    }

    /// `Running` to `Paused`; gives a look at the job at rest.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn pause(&mut self) -> Result<&mut J, DeviceError> {
        match std::mem::replace(&mut self.stage, Stage::Inactive) {
            Stage::Running(worker) => match worker.stop() {
                Some(job) => self.stage = Stage::Paused(job),
                None => return Err(self.wrong("pause")),
            },
            other => {
                self.stage = other;
                return Err(self.wrong("pause"));
            }
        }
        match &mut self.stage {
            Stage::Paused(job) => Ok(job),
            _ => Err(DeviceError::WrongState {
                call: "pause",
                state: "lost",
            }),
        }
    }

    /// Any state to `Inactive`.
    pub fn reset(&mut self) {
        if let Stage::Running(worker) = std::mem::replace(&mut self.stage, Stage::Inactive) {
            drop(worker.stop());
        }
    }

    /// Runs a paused job on the caller's thread; how often it allocated.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn run_here(&mut self, passes: usize) -> u64 {
        match &mut self.stage {
            Stage::Paused(job) => crate::worker::run_here(job, passes),
            _ => 0,
        }
    }

    fn wrong(&self, call: &'static str) -> DeviceError {
        let state = match self.stage {
            Stage::Inactive => "inactive",
            Stage::Paused(_) => "paused",
            Stage::Running(_) => "running",
        };
        DeviceError::WrongState { call, state }
    }
}

/// A device that is dropped while it runs ends its thread first: no thread outlives its device.
impl<J> Drop for Life<J> {
    fn drop(&mut self) {
        if let Stage::Running(worker) = std::mem::replace(&mut self.stage, Stage::Inactive) {
            worker.end();
        }
    }
}
