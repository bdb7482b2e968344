//! The compute API as a client sees it, over the whole router, down to the operation's row: here
//! the cloud that the tests share, and a file of tests for each resource.

#![allow(clippy::unwrap_used)]

mod boot_sources;
mod create;
mod discovery;
mod flavors;
mod groups;
mod hosts;
mod keypairs;
mod policy;
mod quota_sets;
mod security_groups;
mod servers;

use crate::testing::{self, Answer, Client};
use base64::Engine as _;

use berth_controller_core::params;
use berth_controller_core::store::StoreError;
use serde_json::{Value, json};

/// A cloud with a host, a network, an image, and a member of a project.
struct Cloud {
    app: testing::App,
    admin: Client,
    member: Client,
    project: String,
    image: String,
    network: String,
}

const HOST: &str = "11111111-1111-4111-8111-111111111111";
const IMAGE: &str = "44444444-4444-4444-8444-444444444444";
const KERNEL: &str = "66666666-6666-4666-8666-666666666666";
const NETWORK: &str = "55555555-5555-4555-8555-555555555555";

async fn cloud() -> Cloud {
    let app = testing::app().await;
    let admin = Client::admin(&app).await;
    let (member, project) = admin.member("alice").await;
    let image = IMAGE.to_owned();
    let network = NETWORK.to_owned();
    let now = app.clock.now_millis();
    let capacity = json!(berth_rpc_types::Capacity {
        vcpus: 8,
        memory_mib: 16_384,
        disk_gib: 100,
        disk_free_gib: 90,
        driver: "simulated".into(),
        ..Default::default()
    });
    let owner = project.clone();
    app.store
        .tx(|tx| {
            let (capacity, owner) = (capacity.clone(), owner.clone());
            Box::pin(async move {
                crate::flavors::bootstrap(tx, now).await?;
                tx.execute(
                    "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, \
                     availability_zone, enabled, forced_down, last_seen_at, agent_version, \
                     capacity, generation, network_revision, created_at, updated_at) \
                     VALUES ($1, 1, 'node-1', '10.0.0.1', '', 1, 'nova', 1, 0, $2, '0', $3, 1, 1, $2, $2)",
                    params![HOST, now, capacity],
                )
                .await?;
                tx.execute(
                    "INSERT INTO host_beats (host_id, beat, seen_at, copied) VALUES ($1, 1, $2, $2)",
                    params![HOST, now],
                )
                .await?;
                tx.execute(
                    "INSERT INTO images (id, owner, name, status, visibility, disk_format, \
                     container_format, min_disk, min_ram, protected, hidden, size, sha512, tags, \
                     properties, created_at, updated_at) \
                     VALUES ($1, 'admin', 'debian', 'active', 'public', 'raw', 'bare', 1, 0, 0, 0, \
                     4096, 'd', '[]', $2, $3, $3), ($4, 'admin', 'kernel', 'active', 'public', \
                     'aki', 'aki', 0, 0, 0, 0, 4096, 'k', '[]', '{}', $3, $3)",
                    params![IMAGE, json!({"kernel_id": KERNEL}), now, KERNEL],
                )
                .await?;
                tx.execute(
                    "INSERT INTO networks (id, project_id, name, description, admin_state_up, \
                     shared, external, network_type, mtu, revision, created_at, updated_at) \
                     VALUES ($1, $2, 'net', '', 1, 0, 0, 'local', 1500, 1, $3, $3)",
                    params![NETWORK, &owner, now],
                )
                .await?;
                tx.execute(
                    "INSERT INTO subnets (id, network_id, project_id, name, description, cidr, \
                     gateway, dhcp, dns, revision, created_at, updated_at) \
                     VALUES ('s', $1, $2, '', '', '10.1.0.0/24', '10.1.0.1', 0, '[]', 1, $3, $3)",
                    params![NETWORK, &owner, now],
                )
                .await?;
                tx.execute(
                    "INSERT INTO subnet_pools (subnet_id, first_position, last_position) \
                     VALUES ('s', $1, $2)",
                    // A position is stored as its distance from the least number there is.
                    params![i64::MIN + 2, i64::MIN + 254],
                )
                .await
            })
        })
        .await
        .unwrap();
    Cloud {
        app,
        admin,
        member,
        project,
        image,
        network,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn message(answer: &Answer) -> String {
    let body = answer.json();
    let error = body.as_object().unwrap().values().next().unwrap();
    assert_eq!(error["code"], json!(answer.status.as_u16()), "{body}");
    text(&error["message"])
}

const SERVERS: &str = "/compute/v2.1/servers";

impl Cloud {
    async fn execute(&self, sql: &'static str, id: &str) {
        let id = id.to_owned();
        let done = self.app.store.tx::<_, StoreError, _>(|tx| {
            let id = id.clone();
            Box::pin(async move { tx.execute(sql, params![id]).await })
        });
        assert_eq!(done.await.unwrap(), 1, "{sql}");
    }

    fn server(&self, name: &str) -> Value {
        json!({"server": {
            "name": name, "imageRef": self.image, "flavorRef": "1",
            "networks": [{"uuid": self.network}],
        }})
    }

    async fn create(&self, body: Value) -> Answer {
        self.member.post(SERVERS, body).await
    }

    async fn created(&self, name: &str) -> String {
        let made = self.create(self.server(name)).await;
        assert_eq!(made.status, 202, "{}", made.json());
        text(&made.json()["server"]["id"])
    }

    async fn at(
        client: &Client,
        method: &str,
        path: &str,
        body: Option<Value>,
        version: &str,
    ) -> Answer {
        let headers = [("x-openstack-nova-api-version", version)];
        let body = body.map(|b| b.to_string().into_bytes());
        client.send(method, path, body, &headers).await
    }

    /// What a workflow would do, put in by hand.
    async fn sql(&self, sql: &'static str, id: &str) {
        let id = id.to_owned();
        self.app
            .store
            .tx(|tx| {
                let id = id.clone();
                Box::pin(async move { tx.execute(sql, params![id]).await })
            })
            .await
            .unwrap();
    }

    async fn launched(&self, name: &str) -> String {
        let id = self.created(name).await;
        self.sql(
            "UPDATE instances SET vm_state = 'active', task_state = NULL, operation_id = NULL, \
             power_state = 1, launched_at = 1 WHERE id = $1",
            &id,
        )
        .await;
        id
    }

    async fn act(&self, id: &str, body: Value) -> Answer {
        self.member
            .post(&format!("{SERVERS}/{id}/action"), body)
            .await
    }
}
