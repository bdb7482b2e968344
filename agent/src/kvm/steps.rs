//! The plans: which steps carry out which command, and what each step is.

use super::images::Use;
use super::process::{self, Folder, Found};
use super::spawn::{self, NotStarted};
use super::{Host, blocking, broken, config_drive, disks, eviction, guest};
use crate::driver::{DriverError, Job, Step};
use crate::journal::sync_folder;
use berth_rpc::kill_point;
use berth_rpc_types::{Command, VmmSpec};
use berth_vmm_api::{ClientError, VmState, VmStateUpdate};
use futures::future::BoxFuture;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A VMM that is killed while it starts its guest, from outside and without a word, is started so
/// often in all. One that fails says why, and is not.
const START_ATTEMPTS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    MakeDirectory,
    FetchImages,
    MakeDisks,
    MakeConfigDrive,
    WirePorts,
    StartProcess,
    EndProcess,
    /// As [`Kind::EndProcess`], unless this very command has started the process.
    EndOldProcess,
    Pause,
    Unpause,
    UnwirePorts,
    RemoveDirectory,
}

struct KvmStep {
    host: Arc<Host>,
    job: Job,
    kind: Kind,
}

pub(super) fn plan(host: &Arc<Host>, job: &Job) -> Vec<Box<dyn Step>> {
    use Kind::*;
    let kinds: &[Kind] = match &job.command {
        Command::Build(_) => &[
            MakeDirectory,
            FetchImages,
            MakeDisks,
            MakeConfigDrive,
            WirePorts,
            StartProcess,
        ],
        // The taps may have left the host since it was stopped; and a guest of the release before
        // has no kernel of its own.
        Command::Start(_) => &[FetchImages, MakeConfigDrive, WirePorts, StartProcess],
        Command::Stop { .. } => &[EndProcess],
        Command::Reboot { .. } => &[EndOldProcess, StartProcess],
        Command::Pause => &[Pause],
        Command::Unpause => &[Unpause],
        Command::Delete => &[EndProcess, UnwirePorts, RemoveDirectory],
    };
    let step = |kind: &Kind| {
        Box::new(KvmStep {
            host: Arc::clone(host),
            job: job.clone(),
            kind: *kind,
        }) as Box<dyn Step>
    };
    kinds.iter().map(step).collect()
}

impl KvmStep {
    fn folder(&self) -> Folder {
        self.host.folder(self.job.vmm_id)
    }

    fn spec(&self) -> Result<&VmmSpec, DriverError> {
        match &self.job.command {
            Command::Build(spec) | Command::Start(spec) => Ok(spec),
            _ => self.job.spec.as_ref().ok_or_else(|| {
                let message =
                    "this host does not know what the guest is to be; start it from the controller";
                DriverError::host(message, "no spec in the journal")
            }),
        }
    }

    fn builds(&self) -> bool {
        matches!(self.job.command, Command::Build(_))
    }

    async fn is_done(&self) -> Result<bool, DriverError> {
        let folder = self.folder();
        match self.kind {
            Kind::MakeDirectory => Ok(folder.0.exists()),
            Kind::FetchImages => self.images_are_ready(),
            Kind::MakeDisks => Ok(self
                .spec()?
                .disks
                .iter()
                .all(|d| disks::path(&folder.0, d).exists())),
            // A start makes it anew: keys and addresses may have changed since.
            Kind::MakeConfigDrive => Ok(self.builds() && config_drive::path(&folder.0).exists()),
            Kind::WirePorts => {
                for port in &self.spec()?.ports {
                    if !self.host.networks.is_wired(self.job.vmm_id, port).await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Kind::StartProcess => Ok(matches!(
                self.guest_state().await?,
                Some(VmState::Running | VmState::Paused)
            )),
            Kind::EndOldProcess => Ok(self.started_by_this_command()?
                && self.guest_state().await? == Some(VmState::Running)),
            Kind::Pause => Ok(self.guest_state().await? == Some(VmState::Paused)),
            Kind::Unpause => Ok(self.guest_state().await? == Some(VmState::Running)),
            // Cheap to do again, and then certain.
            Kind::EndProcess => Ok(!folder.0.exists()),
            Kind::UnwirePorts => Ok(false),
            Kind::RemoveDirectory => Ok(!folder.0.exists()),
        }
    }

    async fn act(&self) -> Result<(), DriverError> {
        let folder = self.folder();
        let cancelled = &self.job.cancelled;
        match self.kind {
            Kind::MakeDirectory => make_directory(&folder).await,
            Kind::FetchImages => self.fetch_images().await,
            Kind::MakeDisks => {
                for disk in &self.spec()?.disks {
                    if !disks::path(&folder.0, disk).exists() {
                        let base = disk
                            .image
                            .as_ref()
                            .map(|image| self.host.images.path(image, Use::Disk));
                        disks::make(&folder.0, disk, base.transpose()?, cancelled).await?;
                    }
                }
                Ok(())
            }
            Kind::MakeConfigDrive => {
                config_drive::make(&folder.0, self.spec()?).await?;
                kill_point!("agent.config_drive.made");
                Ok(())
            }
            Kind::WirePorts => {
                for port in &self.spec()?.ports {
                    self.host
                        .networks
                        .wire(self.job.vmm_id, port, cancelled)
                        .await?;
                    kill_point!("agent.port.wired");
                }
                Ok(())
            }
            Kind::StartProcess => self.start_process().await,
            Kind::EndProcess | Kind::EndOldProcess => {
                process::end(&folder, self.grace(), &self.job.request_id, cancelled).await
            }
            Kind::Pause => self.set_state(VmStateUpdate::Paused).await,
            Kind::Unpause => self.set_state(VmStateUpdate::Resumed).await,
            Kind::UnwirePorts => self.unwire().await,
            Kind::RemoveDirectory => {
                self.host.images.unpin(self.job.vmm_id);
                remove_directory(&folder).await
            }
        }
    }

    async fn take_back(&self) -> Result<(), DriverError> {
        match self.kind {
            Kind::MakeDirectory => {
                self.host.images.unpin(self.job.vmm_id);
                remove_directory(&self.folder()).await
            }
            Kind::StartProcess => {
                if !self.folder().0.exists() {
                    return Ok(());
                }
                process::end(
                    &self.folder(),
                    Duration::ZERO,
                    &self.job.request_id,
                    &self.job.cancelled,
                )
                .await
            }
            Kind::WirePorts => self.unwire().await,
            Kind::FetchImages => {
                self.host.images.unpin(self.job.vmm_id);
                Ok(())
            }
            // The cache is every guest's. Disks and drive go with the directory, which a start,
            // whose plan does not make it, keeps. The others make nothing.
            _ => Ok(()),
        }
    }

    /// Whether the guest has what it boots from, and the cache what its disks are made from: that
    /// stays there from this look on, until they are made.
    fn images_are_ready(&self) -> Result<bool, DriverError> {
        self.pin()?;
        let folder = self.folder();
        for (image, purpose) in self.images()? {
            let cached = self.host.images.path(image, purpose)?;
            let there = match purpose {
                Use::Disk => cached,
                Use::Kernel | Use::Ramdisk => eviction::kept(&folder.0, &cached),
            };
            if !there.exists() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn pin(&self) -> Result<(), DriverError> {
        let mut paths = Vec::new();
        for (image, purpose) in self.images()? {
            paths.push(self.host.images.path(image, purpose)?);
        }
        self.host.images.pin(self.job.vmm_id, paths);
        Ok(())
    }

    /// Where a guest has what it boots from: in its directory, or, if a release before this one
    /// made it, in the cache.
    fn own(
        &self,
        image: &berth_rpc_types::ImageSpec,
        purpose: Use,
    ) -> Result<PathBuf, DriverError> {
        let cached = self.host.images.path(image, purpose)?;
        let own = eviction::kept(&self.folder().0, &cached);
        Ok(if own.exists() { own } else { cached })
    }

    /// A start needs no disk's image: its disks are there, or the guest is lost.
    fn images(&self) -> Result<Vec<(&berth_rpc_types::ImageSpec, Use)>, DriverError> {
        let spec = self.spec()?;
        let boot = &spec.boot;
        let mut images = vec![(&boot.kernel, Use::Kernel)];
        images.extend(boot.ramdisk.iter().map(|image| (image, Use::Ramdisk)));
        if self.builds() {
            let of_disks = spec.disks.iter().filter_map(|disk| disk.image.as_ref());
            images.extend(of_disks.map(|image| (image, Use::Disk)));
        }
        Ok(images)
    }

    async fn fetch_images(&self) -> Result<(), DriverError> {
        self.pin()?;
        let fetches = self.images()?.into_iter().map(|(image, purpose)| {
            let job = &self.job;
            self.host
                .images
                .ready(image, purpose, &job.cancelled, &job.progress)
        });
        let ready = futures::future::try_join_all(fetches).await?;
        let folder = self.folder().0;
        if !folder.exists() {
            // Nothing is left of the guest: its start says so.
            return Ok(());
        }
        let boots = self.images()?.into_iter().zip(ready);
        let boots = boots.filter(|((_, purpose), _)| *purpose != Use::Disk);
        let boots: Vec<PathBuf> = boots.map(|(_, path)| path).collect();
        let kept = blocking(move || {
            for cached in &boots {
                eviction::keep(&folder, cached)?;
            }
            sync_folder(&folder)
        });
        kept.await
            .map_err(|e| broken("what the guest boots from cannot be kept", &e))?;
        kill_point!("agent.boot_files.kept");
        Ok(())
    }

    async fn start_process(&self) -> Result<(), DriverError> {
        self.host.images.unpin(self.job.vmm_id);
        let spec = self.spec()?;
        let folder = self.folder();
        if let Some(disk) = spec
            .disks
            .iter()
            .find(|d| !disks::path(&folder.0, d).exists())
        {
            let message = format!(
                "disk {} is not on this host any more; rebuild the server",
                disk.id
            );
            return Err(DriverError::request(
                message,
                folder.0.display().to_string(),
            ));
        }
        let kernel = self.own(&spec.boot.kernel, Use::Kernel)?;
        let ramdisk = spec.boot.ramdisk.as_ref();
        let ramdisk = ramdisk.map(|image| self.own(image, Use::Ramdisk));
        let ramdisk = ramdisk.transpose()?;
        let description = guest::describe(
            spec,
            self.job.vmm_id,
            &folder,
            &kernel,
            ramdisk.as_deref(),
            self.host.console_bytes,
        )?;
        if let Err(error) = self.start_and_again(&folder, &description).await {
            if self.job.message_id.is_none() {
                // It was to be a guest's reset, which nobody waits for any more.
                let cancelled = &self.job.cancelled;
                process::end(&folder, Duration::ZERO, &self.job.request_id, cancelled).await?;
            }
            return Err(error);
        }
        let boots = process::count_boot(&folder).map_err(|e| broken("boots", &e))?;
        kill_point!("agent.boot.counted");
        tracing::info!(boots, "the guest was started");
        let vmm_id = self.job.vmm_id;
        if let Ok(Found::Alive(alive, _)) = folder.find() {
            process::watch(vmm_id, alive, Arc::clone(&self.host.hints));
        } else {
            self.host.hints.give(vmm_id);
        }
        Ok(())
    }

    /// A VMM that is killed is followed by another, within bounds.
    async fn start_and_again(
        &self,
        folder: &Folder,
        description: &guest::Guest,
    ) -> Result<(), DriverError> {
        let mut attempts = 1;
        while let Err(error) = self.start_once(folder, description).await {
            let signal = match error {
                NotStarted::Failed(error) => return Err(error),
                NotStarted::Killed(signal) => signal,
            };
            tracing::warn!(
                attempts,
                signal,
                "the VMM was killed while it started the guest"
            );
            if attempts == START_ATTEMPTS {
                let message = format!(
                    "the guest cannot be started on this host: its VMM was killed {attempts} times; \
                     the host's kernel log tells whether it is out of memory"
                );
                return Err(DriverError::host(message, folder.log_end()));
            }
            attempts += 1;
        }
        Ok(())
    }

    async fn start_once(
        &self,
        folder: &Folder,
        description: &guest::Guest,
    ) -> Result<(), NotStarted> {
        let job = &self.job;
        // Whatever a start that was interrupted has left.
        process::end_process(folder, Duration::ZERO, &job.request_id, &job.cancelled).await?;
        let mut vmm = spawn::spawn(
            folder,
            &self.host.vmm_binary,
            job.vmm_id,
            job.message_id,
            &job.request_id,
            &job.cancelled,
        )
        .await?;
        let client = folder
            .client(&job.request_id)
            .with_timeout(Duration::from_secs(60));
        let description = description.clone();
        let started = blocking(move || Ok(description.start(&client))).await;
        kill_point!("agent.vmm.started");
        match started.map_err(|e| broken("the VMM cannot be told", &e))? {
            Ok(()) => spawn::killed_by(&mut vmm).map_or(Ok(()), |s| Err(NotStarted::Killed(s))),
            Err(error @ ClientError::Fault { .. }) => Err(refused(folder, &error).into()),
            Err(error) => match spawn::killed_soon(&mut vmm).await {
                Some(signal) => Err(NotStarted::Killed(signal)),
                None => Err(refused(folder, &error).into()),
            },
        }
    }

    fn grace(&self) -> Duration {
        let seconds = match &self.job.command {
            Command::Stop { grace_s }
            | Command::Reboot {
                soft: true,
                grace_s,
            } => *grace_s,
            _ => 0,
        };
        Duration::from_secs(seconds.into())
    }

    fn started_by_this_command(&self) -> Result<bool, DriverError> {
        let found = self
            .folder()
            .find()
            .map_err(|e| broken("the guest's process", &e))?;
        let file = match found {
            Found::Alive(_, file) | Found::Ended(file) => file,
            Found::None => return Ok(false),
        };
        Ok(self.job.message_id.is_some() && file.started_for == self.job.message_id)
    }

    /// The guest's state in the VMM's own words; `None` without a living VMM.
    async fn guest_state(&self) -> Result<Option<VmState>, DriverError> {
        let folder = self.folder();
        let state = blocking(move || match folder.find()? {
            Found::Alive(..) => Ok(folder.client("").info().ok().map(|info| info.state)),
            _ => Ok(None),
        });
        state.await.map_err(|e| broken("the guest's state", &e))
    }

    async fn set_state(&self, state: VmStateUpdate) -> Result<(), DriverError> {
        let folder = self.folder();
        let Ok(Found::Alive(alive, _)) = folder.find() else {
            return Err(DriverError::request(
                "the guest does not run; start it first",
                "no VMM",
            ));
        };
        let client = folder.client(&self.job.request_id);
        match blocking(move || Ok(client.set_state(state))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if !matches!(error, ClientError::Fault { .. }) {
                    // It may be dying: then that is what is told.
                    let _ = tokio::time::timeout(process::DEATH_LIMIT, alive.ended()).await;
                }
                Err(refused(&folder, &error))
            }
            Err(error) => Err(broken("the VMM cannot be told", &error)),
        }
    }

    async fn unwire(&self) -> Result<(), DriverError> {
        // Without a spec nothing was ever wired by this journal.
        for port in self
            .spec()
            .map(|spec| spec.ports.as_slice())
            .unwrap_or_default()
        {
            self.host.networks.unwire(self.job.vmm_id, port).await?;
            kill_point!("agent.port.unwired");
        }
        Ok(())
    }
}

/// The VMM's refusal, in its words, with the end of its log for operators.
fn refused(folder: &Folder, error: &ClientError) -> DriverError {
    let detail = format!("{error}; log: {}", folder.log_end());
    match error {
        ClientError::Fault {
            fault, status: 400, ..
        } => DriverError::request(format!("the VMM refuses the guest: {fault}"), detail),
        _ => {
            let said = match folder.was_killed() {
                true => "it was killed".to_owned(),
                false => folder.last_error().unwrap_or_else(|| error.to_string()),
            };
            DriverError::host(format!("the VMM failed: {said}"), detail)
        }
    }
}

async fn make_directory(folder: &Folder) -> Result<(), DriverError> {
    let path = folder.0.clone();
    let made = blocking(move || {
        fs::create_dir_all(&path)?;
        path.parent().map_or(Ok(()), sync_folder)
    });
    made.await
        .map_err(|e| broken("the guest's directory cannot be made", &e))?;
    kill_point!("agent.directory.made");
    Ok(())
}

async fn remove_directory(folder: &Folder) -> Result<(), DriverError> {
    let path = folder.0.clone();
    let removed = blocking(move || {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        path.parent().map_or(Ok(()), sync_folder)
    });
    removed
        .await
        .map_err(|e| broken("the guest's directory cannot be removed", &e))?;
    kill_point!("agent.directory.removed");
    Ok(())
}

impl Step for KvmStep {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::MakeDirectory => "make_directory",
            Kind::FetchImages => "fetch_images",
            Kind::MakeDisks => "make_disks",
            Kind::MakeConfigDrive => "make_config_drive",
            Kind::WirePorts => "wire_ports",
            Kind::StartProcess => "start_process",
            Kind::EndProcess | Kind::EndOldProcess => "end_process",
            Kind::Pause => "pause",
            Kind::Unpause => "unpause",
            Kind::UnwirePorts => "unwire_ports",
            Kind::RemoveDirectory => "remove_directory",
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        Box::pin(self.is_done())
    }

    fn run(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.act())
    }

    fn undo(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.take_back())
    }
}
