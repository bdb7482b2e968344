//! `berth image`: `create` makes a bootable image from files, with a bar while its bytes go up;
//! [`convert`] makes a raw disk.
//!
//! Guests boot a kernel directly, so that an image is up to three: kernel and ramdisk are
//! images of their own, and the root image names them. What arrived is compared with what was
//! read (SHA-512); an image whose upload failed is deleted again, so that a failed command
//! leaves nothing behind.

mod convert;
mod upload;

use crate::cloud::{Cloud, sent};
use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use upload::Source;

/// Arguments of `berth image`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Upload an image to the cloud that OS_* in the environment names; prints its id.
    Create(Create),
    /// Make a raw disk from one of another format, on this machine.
    Convert(convert::Convert),
}

/// Arguments of `berth image create`.
#[derive(clap::Args)]
struct Create {
    /// Its name; kernel and ramdisk get it with `-kernel` and `-ramdisk`.
    name: String,
    /// The disk.
    #[arg(long)]
    file: PathBuf,
    /// What the disk's bytes are: never guessed from them.
    #[arg(long, value_enum)]
    disk_format: DiskFormat,
    /// The kernel that it boots: a bzImage or an ELF.
    #[arg(long, conflicts_with = "kernel_id")]
    kernel: Option<PathBuf>,
    /// A kernel that is an image already.
    #[arg(long)]
    kernel_id: Option<String>,
    /// The kernel's initial ramdisk.
    #[arg(long)]
    ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long)]
    cmdline: Option<String>,
    /// GiB that a flavor's disk must have.
    #[arg(long, default_value_t = 0)]
    min_disk: u32,
    /// Visible to all projects; administrators may.
    #[arg(long)]
    public: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DiskFormat {
    Raw,
    Qcow2,
}

/// Does it; `create` prints the root image's id.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.verb {
        Verb::Convert(arguments) => convert::convert(arguments)?,
        Verb::Create(arguments) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting the runtime")?;
            println!("{}", runtime.block_on(run(arguments))?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(create: &Create) -> anyhow::Result<String> {
    // All files first: a path that is wrong is told before anything is uploaded.
    let root = Source::open(&create.file)?;
    let kernel = create.kernel.as_deref().map(Source::open).transpose()?;
    let ramdisk = create.ramdisk.as_deref().map(Source::open).transpose()?;
    let cloud = Cloud::from_environment().await?;
    let images = Images {
        url: format!("{}/v2/images", cloud.endpoint("image")?),
        cloud,
        visibility: if create.public { "public" } else { "shared" },
    };
    let mut made = Vec::new();
    let result = images
        .create_all(create, root, kernel, ramdisk, &mut made)
        .await;
    if result.is_err() {
        for id in &made {
            images.delete(id).await;
        }
    }
    result
}

struct Images {
    cloud: Cloud,
    url: String,
    visibility: &'static str,
}

impl Images {
    /// Gives the root image's id; every id that was made is in `made`, also on failure.
    async fn create_all(
        &self,
        create: &Create,
        root: Source,
        kernel: Option<Source>,
        ramdisk: Option<Source>,
        made: &mut Vec<String>,
    ) -> anyhow::Result<String> {
        let name = &create.name;
        let mut about = match create.disk_format {
            DiskFormat::Raw => json!({"disk_format": "raw", "container_format": "bare"}),
            DiskFormat::Qcow2 => json!({"disk_format": "qcow2", "container_format": "bare"}),
        };
        about["min_disk"] = json!(create.min_disk);
        if let Some(kernel) = kernel {
            let format = json!({"disk_format": "aki", "container_format": "aki"});
            let id = self
                .create(&format!("{name}-kernel"), format, kernel, made)
                .await?;
            about["kernel_id"] = json!(id);
        } else if let Some(id) = &create.kernel_id {
            about["kernel_id"] = json!(id);
        }
        if let Some(ramdisk) = ramdisk {
            let format = json!({"disk_format": "ari", "container_format": "ari"});
            let id = self
                .create(&format!("{name}-ramdisk"), format, ramdisk, made)
                .await?;
            about["ramdisk_id"] = json!(id);
        }
        if let Some(cmdline) = &create.cmdline {
            about["os_command_line"] = json!(cmdline);
        }
        self.create(name, about, root, made).await
    }

    async fn create(
        &self,
        name: &str,
        mut about: Value,
        source: Source,
        made: &mut Vec<String>,
    ) -> anyhow::Result<String> {
        about["name"] = json!(name);
        about["visibility"] = json!(self.visibility);
        let call = self.cloud.call(Method::POST, &self.url).json(&about);
        let image: Value = sent(&self.url, call).await?.json().await?;
        let id = image["id"]
            .as_str()
            .with_context(|| format!("{}: the answer has no id", self.url))?
            .to_owned();
        made.push(id.clone());
        upload::upload(&self.cloud, &format!("{}/{id}", self.url), name, source).await?;
        Ok(id)
    }

    async fn delete(&self, id: &str) {
        let url = format!("{}/{id}", self.url);
        if let Err(error) = sent(&url, self.cloud.call(Method::DELETE, &url)).await {
            eprintln!("berth: image {id} was not finished, and could not be deleted: {error:#}");
        }
    }
}
