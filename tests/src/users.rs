//! Users of a cloud whose hosts are simulated, one at each controller.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cloud::{Cloud, PHYSICAL_NETWORK};
use crate::process::wait_until;
use crate::rest::Rest;

/// What nobody has answered after this never will be.
const PATIENCE: Duration = Duration::from_secs(120);
const SERVERS: &str = "/compute/v2.1/servers";

/// Administrators, and what servers are made from.
pub struct Users {
    at: Vec<Rest>,
    image: String,
    network: String,
    flavor: String,
}

impl Users {
    /// A user of each controller, and what servers are made from.
    ///
    /// # Errors
    /// What a controller would not do.
    pub fn furnish(cloud: &Cloud) -> Result<Self> {
        let log_in = |number: usize| {
            let bases = vec![cloud.base_url(number).to_owned()];
            Rest::log_in(bases, &cloud.ca(), cloud.admin_password())
        };
        let at: Vec<Rest> = (0..cloud.controllers.len())
            .map(log_in)
            .collect::<Result<_>>()?;
        let admin = &at[0];
        let make = |path: &str, kind: &str, about: Value| -> Result<String> {
            let made = admin.done("POST", path, &json!({kind: about}))?;
            Ok(made.body[kind]["id"].as_str().context("an id")?.to_owned())
        };
        let bytes = cloud.dir().join("bytes");
        fs::write(&bytes, "bytes")?;
        let kernel = json!({"name": "kernel", "disk_format": "aki", "container_format": "aki"});
        let kernel = admin.image(&kernel, &bytes)?;
        let root = json!({"name": "root", "disk_format": "raw", "container_format": "bare",
            "kernel_id": kernel});
        let image = admin.image(&root, &bytes)?;
        let network = json!({"name": "net", "provider:network_type": "flat",
            "provider:physical_network": PHYSICAL_NETWORK});
        let network = make("/network/v2.0/networks", "network", network)?;
        let subnet = json!({"network_id": network, "ip_version": 4, "cidr": "10.88.0.0/16"});
        make("/network/v2.0/subnets", "subnet", subnet)?;
        let flavor = json!({"name": "small", "vcpus": 1, "ram": 128, "disk": 1});
        let flavor = make("/compute/v2.1/flavors", "flavor", flavor)?;
        let project = admin.done("GET", "/identity/v3/projects?name=admin", &Value::Null)?;
        let project = project.body["projects"][0]["id"]
            .as_str()
            .context("a project")?;
        let quota = json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1}});
        admin.done(
            "PUT",
            &format!("/compute/v2.1/os-quota-sets/{project}"),
            &quota,
        )?;
        Ok(Self {
            at,
            image,
            network,
            flavor,
        })
    }

    /// Asks a controller for a server on the simulated host of a number; gives its id.
    ///
    /// # Errors
    /// Its refusal.
    pub fn create(&self, asked: usize, name: &str, host: usize) -> Result<String> {
        let server = json!({"server": {"name": name, "imageRef": self.image,
            "flavorRef": self.flavor, "networks": [{"uuid": self.network}],
            "availability_zone": format!("nova:simulated-{host}")}});
        let made = self.at[asked].done("POST", SERVERS, &server)?;
        Ok(made.body["server"]["id"]
            .as_str()
            .context("an id")?
            .to_owned())
    }

    /// Asks a controller to do something to a server: an action's body, or `null` for its delete.
    ///
    /// # Errors
    /// Its refusal.
    pub fn ask(&self, asked: usize, action: &Value, id: &str) -> Result<()> {
        let path = format!("{SERVERS}/{id}");
        match action {
            Value::Null => self.at[asked].done("DELETE", &path, &Value::Null)?,
            action => self.at[asked].done("POST", &format!("{path}/action"), action)?,
        };
        Ok(())
    }

    /// Stores one more image.
    ///
    /// # Errors
    /// The controller's refusal.
    pub fn image(&self, name: &str) -> Result<()> {
        let bytes = tempfile::NamedTempFile::new()?;
        fs::write(&bytes, name)?;
        let about = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
        self.at[0].image(&about, bytes.path())?;
        Ok(())
    }

    /// The server of a name, as the first controller shows it.
    ///
    /// # Errors
    /// Its refusal.
    pub fn named(&self, name: &str) -> Result<Option<String>> {
        let path = format!("{SERVERS}?name=^{name}$");
        let list = self.at[0].done("GET", &path, &Value::Null)?;
        Ok(list.body["servers"][0]["id"].as_str().map(str::to_owned))
    }

    /// Until the server has this status and nothing is being done to it; `None`: until it is gone.
    ///
    /// # Panics
    /// If that does not come.
    pub fn until(&self, cloud: &Cloud, id: &str, status: Option<&str>) {
        let mut last = Value::Null;
        let reached = wait_until(PATIENCE, || {
            // A controller that was just started answers soon.
            let path = format!("{SERVERS}/{id}");
            let Ok(shown) = self.at[0].ask("GET", &path, &Value::Null) else {
                return Ok(None);
            };
            last = shown.body["server"].clone();
            let idle = last["OS-EXT-STS:task_state"].is_null();
            Ok((idle && last["status"].as_str() == status).then_some(()))
        });
        assert!(
            matches!(reached, Ok(Some(()))),
            "{id} is not {status:?} but {last:#}:\n{}",
            cloud.explain()
        );
    }
}
