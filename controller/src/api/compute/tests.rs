//! The compute API as a client sees it, over the whole router, down to the operation's row.

#![allow(clippy::unwrap_used)]

use crate::api::AppState;
use crate::api::testing::{self, Answer, Client};
use crate::compute::{flavors, instances};
use crate::params;
use crate::store::StoreError;
use base64::Engine as _;
use serde_json::{Value, json};

/// A cloud with a host, a network, an image, and a member of a project.
struct Cloud {
    app: AppState,
    admin: Client,
    member: Client,
    project: String,
    image: String,
    network: String,
}

const HOST: &str = "11111111-1111-4111-8111-111111111111";
const IMAGE: &str = "44444444-4444-4444-8444-444444444444";
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
                flavors::bootstrap(tx, now).await?;
                tx.execute(
                    "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, \
                     availability_zone, enabled, forced_down, last_seen_at, agent_version, \
                     capacity, generation, network_revision, created_at, updated_at) \
                     VALUES ($1, 1, 'node-1', '10.0.0.1', '', 1, 'nova', 1, 0, $2, '0', $3, 1, 1, $2, $2)",
                    params![HOST, now, capacity],
                )
                .await?;
                tx.execute(
                    "INSERT INTO images (id, owner, name, status, visibility, disk_format, \
                     container_format, min_disk, min_ram, protected, hidden, size, tags, \
                     properties, created_at, updated_at) \
                     VALUES ($1, 'admin', 'debian', 'active', 'public', 'raw', 'bare', 1, 0, 0, 0, \
                     4096, '[]', '{}', $2, $2)",
                    params![IMAGE, now],
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

#[tokio::test]
async fn a_create_is_accepted_with_everything_it_needs_written() {
    let cloud = cloud().await;
    let made = cloud.create(cloud.server("web/1")).await;
    assert_eq!(made.status, 202, "{}", made.json());
    let server = &made.json()["server"];
    let id = text(&server["id"]);
    assert!(text(&server["links"][0]["href"]).starts_with("http://controller.test/compute/v2.1/"));
    assert!(server.get("adminPass").is_none());
    let shown = cloud.member.get(&format!("{SERVERS}/{id}")).await.json();
    let shown = &shown["server"];
    assert_eq!(shown["name"], "web/1");
    assert_eq!(shown["status"], "BUILD");
    assert_eq!(shown["OS-EXT-STS:task_state"], "scheduling");
    assert_eq!(shown["addresses"]["net"][0]["version"], 4);
    assert_eq!(shown["security_groups"][0]["name"], "default");
    let actions = cloud
        .member
        .get(&format!("{SERVERS}/{id}/os-instance-actions"))
        .await;
    let actions = actions.json();
    assert_eq!(actions["instanceActions"][0]["action"], "create");
    assert_eq!(
        actions["instanceActions"][0]["request_id"],
        made.headers["x-openstack-request-id"].to_str().unwrap()
    );
    let rows = cloud
        .app
        .store
        .tx(|tx| {
            Box::pin(async move {
                let operations = tx.query("SELECT * FROM operations", params![]).await?;
                let disks = tx.query("SELECT * FROM disks", params![]).await?;
                Ok::<_, StoreError>((operations, disks))
            })
        })
        .await
        .unwrap();
    assert_eq!(rows.0.len(), 1);
    assert_eq!(rows.0[0].text("kind").unwrap(), "create");
    assert_eq!(rows.0[0].text("instance_id").unwrap(), id);
    assert_eq!(rows.1[0].int("size_gib").unwrap(), 1);
}

#[tokio::test]
async fn a_request_that_is_wrong_gets_a_400_that_names_the_field_and_writes_nothing() {
    let cloud = cloud().await;
    let with = |field: &str, value: Value| {
        let mut body = cloud.server("x");
        body["server"][field] = value;
        body
    };
    for (body, words) in [
        (
            with("name", json!("x".repeat(256))),
            "server.name is longer than 255",
        ),
        (with("name", json!("")), "server.name is empty"),
        (
            with("name", json!(" x")),
            "server.name starts or ends with whitespace",
        ),
        (with("name", json!(null)), "server.name is null"),
        (with("name", json!(7)), "server.name is to be a string"),
        (
            with("flavorRef", json!("99")),
            "Flavor 99 could not be found",
        ),
        (with("imageRef", json!("x")), "server.imageRef is no UUID"),
        (
            with("imageRef", json!("33333333-3333-4333-8333-333333333333")),
            "Can not find requested image",
        ),
        (
            with("user_data", json!("%%%")),
            "server.user_data is not base64",
        ),
        (with("key_name", json!("none")), "Invalid key_name"),
        (with("min_count", json!(0)), "server.min_count"),
        (with("metadata", json!({"k": 1})), "server.metadata.k"),
        (with("metadata", json!({"k/": "v"})), "server.metadata.k/"),
        (
            with("availability_zone", json!("mars")),
            "availability zone is not available",
        ),
        (
            with("networks", json!([{"uuid": "x"}])),
            "Bad networks format",
        ),
        (
            with(
                "networks",
                json!([{"uuid": "33333333-3333-4333-8333-333333333333"}]),
            ),
            "33333333",
        ),
        (
            with("networks", json!("auto")),
            "server.networks is to be a list",
        ),
        (
            with("security_groups", json!([{"name": "nobody"}])),
            "Security group nobody not found",
        ),
        (with("accessIPv4", json!("1.2.3")), "server.accessIPv4"),
        (
            with("OS-DCF:diskConfig", json!("X")),
            "server.OS-DCF:diskConfig",
        ),
        (
            with("description", json!("2.19")),
            "server.description is not a field",
        ),
        (with("surprise", json!(1)), "server.surprise is not a field"),
        (json!({"server": {}}), "server.name is missing"),
        (json!({"name": "x"}), "body.name is not a field"),
    ] {
        let answer = cloud.create(body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.json());
        let got = message(&answer);
        assert!(got.contains(words), "{body}: {got}");
    }
    let mut min = with("min_count", json!(3));
    min["server"]["max_count"] = json!(2);
    assert_eq!(
        message(&cloud.create(min).await),
        "min_count must be <= max_count"
    );
    let list = cloud.member.get(SERVERS).await.json();
    assert_eq!(list["servers"], json!([]));
    let written = cloud
        .app
        .store
        .tx(|tx| Box::pin(async move { tx.query("SELECT id FROM ports", params![]).await }))
        .await
        .unwrap();
    assert!(written.is_empty());
}

#[tokio::test]
async fn networks_have_to_be_said_since_2_37() {
    let cloud = cloud().await;
    let mut body = cloud.server("x");
    body["server"].as_object_mut().unwrap().remove("networks");
    let missing = Cloud::at(&cloud.member, "POST", SERVERS, Some(body.clone()), "2.37").await;
    assert_eq!(missing.status, 400);
    assert_eq!(message(&missing), "server.networks is missing.");
    body["server"]["networks"] = json!("auto");
    let auto = Cloud::at(&cloud.member, "POST", SERVERS, Some(body.clone()), "2.37").await;
    assert_eq!(auto.status, 202, "{}", auto.json());
    body["server"]["networks"] = json!("none");
    let none = Cloud::at(&cloud.member, "POST", SERVERS, Some(body), "2.60").await;
    let id = text(&none.json()["server"]["id"]);
    let ips = cloud
        .member
        .get(&format!("{SERVERS}/{id}/ips"))
        .await
        .json();
    assert_eq!(ips["addresses"], json!({}));
}

#[tokio::test]
async fn the_mapping_that_the_client_sends_for_an_image_is_taken_and_others_are_refused() {
    let cloud = cloud().await;
    let mapping = |item: Value| {
        let mut body = cloud.server("x");
        body["server"]["block_device_mapping_v2"] = json!([item]);
        body
    };
    let image = &cloud.image;
    let good = json!({
        "uuid": image, "boot_index": 0, "source_type": "image",
        "destination_type": "local", "delete_on_termination": true,
    });
    assert_eq!(cloud.create(mapping(good.clone())).await.status, 202);
    let with = |field: &str, value: Value| {
        let mut item = good.clone();
        item[field] = value;
        mapping(item)
    };
    for (body, status) in [
        (with("destination_type", json!("volume")), 501),
        (with("source_type", json!("blank")), 501),
        (with("volume_size", json!(5)), 501),
        (with("delete_on_termination", json!(false)), 400),
        (with("boot_index", json!(1)), 400),
        (
            with("uuid", json!("33333333-3333-4333-8333-333333333333")),
            400,
        ),
        (with("volume_type", json!("fast")), 400),
    ] {
        let answer = cloud.create(body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.json());
    }
}

#[tokio::test]
async fn over_quota_is_403_with_requested_used_and_limit() {
    let cloud = cloud().await;
    let quota = format!("/compute/v2.1/os-quota-sets/{}", cloud.project);
    let set = json!({"quota_set": {"instances": 2, "cores": 2}});
    assert_eq!(cloud.admin.put(&quota, set).await.status, 200);
    cloud.created("one").await;
    let mut many = cloud.server("many");
    many["server"]["min_count"] = json!(2);
    let refused = cloud.create(many.clone()).await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        message(&refused),
        "Quota exceeded for instances, cores: Requested 2, 2, but already used 1, 1 of 2, 2 instances, cores"
    );
    // Between the least and the most asked for, as many as there is room for.
    many["server"]["min_count"] = json!(1);
    many["server"]["max_count"] = json!(5);
    assert_eq!(cloud.create(many).await.status, 202);
    let list = cloud.member.get(SERVERS).await.json();
    let names: Vec<_> = list["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| text(&s["name"]))
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"many-1".to_owned()), "{names:?}");
    let limits = cloud.member.get("/compute/v2.1/limits").await.json();
    assert_eq!(limits["limits"]["absolute"]["totalInstancesUsed"], 2);
}

#[tokio::test]
async fn ten_creates_at_once_get_no_more_than_the_quota() {
    let cloud = cloud().await;
    let quota = format!("/compute/v2.1/os-quota-sets/{}", cloud.project);
    let set = json!({"quota_set": {"instances": 3}});
    assert_eq!(cloud.admin.put(&quota, set).await.status, 200);
    let all = (0..10).map(|n| cloud.create(cloud.server(&format!("s{n}"))));
    let answers = futures::future::join_all(all).await;
    let accepted = answers.iter().filter(|a| a.status == 202).count();
    let refused = answers.iter().filter(|a| a.status == 403).count();
    assert_eq!((accepted, refused), (3, 7));
}

#[tokio::test]
async fn another_projects_server_is_not_there() {
    let cloud = cloud().await;
    let id = cloud.launched("mine").await;
    let (other, _) = cloud.admin.member("mallory").await;
    let path = format!("{SERVERS}/{id}");
    for answer in [
        other.get(&path).await,
        other.delete(&path).await,
        other.put(&path, json!({"server": {"name": "x"}})).await,
        other
            .post(&format!("{path}/action"), json!({"os-stop": null}))
            .await,
        other.get(&format!("{path}/os-interface")).await,
        other.get(&format!("{SERVERS}/not-a-uuid")).await,
    ] {
        assert_eq!(answer.status, 404);
        assert!(message(&answer).contains("could not be found"));
    }
    assert_eq!(other.get(SERVERS).await.json()["servers"], json!([]));
    assert_eq!(cloud.admin.get(&path).await.status, 200);
    let everything = other.get(&format!("{SERVERS}?all_tenants=1")).await;
    assert_eq!(everything.status, 403);
    let everything = cloud
        .admin
        .get(&format!("{SERVERS}/detail?all_tenants=1"))
        .await;
    assert_eq!(everything.json()["servers"][0]["id"], json!(id));
}

#[tokio::test]
async fn an_action_that_the_state_forbids_is_409_in_novas_words() {
    let cloud = cloud().await;
    let id = cloud.created("new").await;
    let refused = cloud.act(&id, json!({"os-stop": null})).await;
    assert_eq!(refused.status, 409);
    assert_eq!(
        message(&refused),
        format!("Cannot 'stop' instance {id} while it is in vm_state building")
    );
    let id = cloud.launched("old").await;
    assert_eq!(cloud.act(&id, json!({"os-start": null})).await.status, 409);
    assert_eq!(cloud.act(&id, json!({"os-stop": null})).await.status, 202);
    let again = cloud.act(&id, json!({"os-stop": null})).await;
    assert_eq!(
        message(&again),
        format!("Cannot 'stop' instance {id} while it is in task_state powering-off")
    );
    for (body, status) in [
        (json!({"fly": null}), 400),
        (json!({"reboot": {"type": "SIDEWAYS"}}), 400),
        (json!({"reboot": {"type": "HARD"}, "os-stop": null}), 400),
        (json!({"resize": {"flavorRef": "2"}}), 501),
    ] {
        let answer = cloud.act(&id, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
    }
    // A delete pre-empts, and once is enough.
    for _ in 0..2 {
        let gone = cloud.member.delete(&format!("{SERVERS}/{id}")).await;
        assert_eq!(gone.status, 204);
    }
}

#[tokio::test]
async fn a_reboot_shows_as_one_and_a_lock_holds_all_but_administrators() {
    let cloud = cloud().await;
    let id = cloud.launched("x").await;
    assert_eq!(cloud.act(&id, json!({"lock": null})).await.status, 202);
    let refused = cloud.act(&id, json!({"reboot": {"type": "HARD"}})).await;
    assert_eq!(
        (refused.status.as_u16(), message(&refused)),
        (409, format!("Instance {id} is locked"))
    );
    assert_eq!(cloud.act(&id, json!({"unlock": null})).await.status, 202);
    assert_eq!(
        cloud
            .act(&id, json!({"reboot": {"type": "hard"}}))
            .await
            .status,
        202
    );
    let shown = cloud.member.get(&format!("{SERVERS}/{id}")).await.json();
    assert_eq!(shown["server"]["status"], "HARD_REBOOT");
    let reset = json!({"os-resetState": {"state": "error"}});
    assert_eq!(cloud.act(&id, reset.clone()).await.status, 403);
    let path = format!("{SERVERS}/{id}/action");
    assert_eq!(cloud.admin.post(&path, reset.clone()).await.status, 409);
    let id = cloud.launched("y").await;
    let path = format!("{SERVERS}/{id}/action");
    assert_eq!(cloud.admin.post(&path, reset).await.status, 202);
    let shown = cloud.member.get(&format!("{SERVERS}/{id}")).await.json();
    assert_eq!(shown["server"]["status"], "ERROR");
}

#[tokio::test]
async fn a_fault_is_shown_with_what_each_filter_removed() {
    let cloud = cloud().await;
    let id = cloud.created("x").await;
    cloud
        .sql(
            "UPDATE instances SET vm_state = 'error', task_state = NULL, fault = \
             '{\"code\": 500, \"message\": \"No valid host: RamFilter removed 2\", \"details\": \"d\", \"created\": 0}' \
             WHERE id = $1",
            &id,
        )
        .await;
    let path = format!("{SERVERS}/{id}");
    let shown = cloud.member.get(&path).await.json();
    assert_eq!(
        shown["server"]["fault"],
        json!({"code": 500, "message": "No valid host: RamFilter removed 2", "created": "1970-01-01T00:00:00Z"})
    );
    let shown = cloud.admin.get(&path).await.json();
    assert_eq!(shown["server"]["fault"]["details"], "d");
}

#[tokio::test]
async fn every_answer_says_its_microversion() {
    let cloud = cloud().await;
    for (path, version, status, said) in [
        (SERVERS, "2.26", 200, "2.26"),
        (SERVERS, "latest", 200, "2.60"),
        ("/compute/v2.1/servers/none", "2.9", 404, "2.9"),
        (SERVERS, "2.61", 406, "2.1"),
        (SERVERS, "x", 400, "2.1"),
        ("/compute/v2/servers", "2.26", 200, ""),
    ] {
        let answer = Cloud::at(&cloud.member, "GET", path, None, version).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {version}");
        let header = |name| answer.headers.get(name).map_or("", |v| v.to_str().unwrap());
        assert_eq!(header("x-openstack-nova-api-version"), said);
        if !said.is_empty() {
            assert_eq!(header("openstack-api-version"), format!("compute {said}"));
            assert!(header("vary").contains("OpenStack-API-Version"));
        }
        assert!(header("x-compute-request-id").starts_with("req-"));
    }
}

#[tokio::test]
async fn discovery_is_public_and_its_links_can_be_followed() {
    let cloud = cloud().await;
    let anybody = Client::anonymous(&cloud.app);
    let all = anybody.get("/compute/").await;
    assert_eq!(all.status, 200);
    let versions = all.json()["versions"].as_array().unwrap().clone();
    assert_eq!(versions[1]["version"], "2.60");
    for version in versions {
        let href = text(&version["links"][0]["href"]);
        let path = href.strip_prefix("http://controller.test").unwrap();
        let one = anybody.get(path).await;
        assert_eq!(one.status, 200, "{path}");
        assert_eq!(one.json()["version"]["id"], version["id"]);
    }
}

#[tokio::test]
async fn metadata_and_tags_are_changed_item_by_item() {
    let cloud = cloud().await;
    let id = cloud.launched("x").await;
    let meta = format!("{SERVERS}/{id}/metadata");
    let put = cloud
        .member
        .put(&meta, json!({"metadata": {"a": "1"}}))
        .await;
    assert_eq!(put.json(), json!({"metadata": {"a": "1"}}));
    let post = cloud
        .member
        .post(&meta, json!({"metadata": {"b": "2"}}))
        .await;
    assert_eq!(post.json()["metadata"], json!({"a": "1", "b": "2"}));
    let item = cloud
        .member
        .put(&format!("{meta}/a"), json!({"meta": {"a": "9"}}))
        .await;
    assert_eq!(item.json(), json!({"meta": {"a": "9"}}));
    let wrong = cloud
        .member
        .put(&format!("{meta}/a"), json!({"meta": {"z": "9"}}))
        .await;
    assert_eq!(wrong.status, 400);
    assert_eq!(cloud.member.delete(&format!("{meta}/b")).await.status, 204);
    assert_eq!(cloud.member.delete(&format!("{meta}/b")).await.status, 404);

    let tags = format!("{SERVERS}/{id}/tags");
    let m = &cloud.member;
    assert_eq!(Cloud::at(m, "GET", &tags, None, "2.25").await.status, 404);
    let added = Cloud::at(m, "PUT", &format!("{tags}/blue"), None, "2.26").await;
    assert_eq!(added.status, 201);
    assert!(
        added.headers["location"]
            .to_str()
            .unwrap()
            .ends_with("/tags/blue")
    );
    let again = Cloud::at(m, "PUT", &format!("{tags}/blue"), None, "2.26").await;
    assert_eq!(again.status, 204);
    let all = Cloud::at(m, "PUT", &tags, Some(json!({"tags": ["x", "y"]})), "2.26").await;
    assert_eq!(all.json(), json!({"tags": ["x", "y"]}));
    let bad = Cloud::at(m, "PUT", &tags, Some(json!({"tags": ["x,y"]})), "2.26").await;
    assert_eq!(bad.status, 400);
    assert_eq!(
        Cloud::at(m, "GET", &format!("{tags}/x"), None, "2.26")
            .await
            .status,
        204
    );
    let list = Cloud::at(m, "GET", &format!("{SERVERS}?tags=x,y"), None, "2.26").await;
    assert_eq!(list.json()["servers"].as_array().unwrap().len(), 1);
    assert_eq!(
        Cloud::at(m, "DELETE", &tags, None, "2.26").await.status,
        204
    );
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let cloud = cloud().await;
    for name in ["web-1", "web-2", "db"] {
        cloud.created(name).await;
    }
    let names = async |query: &str| {
        let list = cloud.member.get(&format!("{SERVERS}{query}")).await;
        assert_eq!(list.status, 200, "{query}: {}", list.json());
        let list = list.json();
        let all = list["servers"].as_array().unwrap();
        all.iter().map(|s| text(&s["name"])).collect::<Vec<_>>()
    };
    assert_eq!(
        names("?name=web&sort_key=display_name&sort_dir=asc").await,
        ["web-1", "web-2"]
    );
    assert_eq!(names("?name=%5Edb%24").await, ["db"]);
    assert!(names("?status=ACTIVE").await.is_empty());
    assert_eq!(names("?status=build").await.len(), 3);
    assert!(names("?status=flying").await.is_empty());
    assert_eq!(names("?flavor=1").await.len(), 3);
    assert!(names("?limit=0").await.is_empty());
    assert!(
        names("?changes-since=2999-01-01T00:00:00Z")
            .await
            .is_empty()
    );
    let page = cloud.member.get(&format!("{SERVERS}?limit=2")).await.json();
    let next = text(&page["servers_links"][0]["href"]);
    let rest = cloud
        .member
        .get(next.strip_prefix("http://controller.test").unwrap())
        .await;
    assert_eq!(rest.json()["servers"].as_array().unwrap().len(), 1);
    for query in [
        "?limit=-1",
        "?limit=x",
        "?marker=none",
        "?name=(",
        "?sort_key=secret",
        "?changes-since=soon",
    ] {
        let answer = cloud.member.get(&format!("{SERVERS}{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    assert_eq!(
        cloud
            .member
            .get(&format!("{SERVERS}?status=deleted"))
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .admin
            .get(&format!("{SERVERS}?host=node-1"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn keys_are_imported_or_made_and_belong_to_their_user() {
    let cloud = cloud().await;
    let keys = "/compute/v2.1/os-keypairs";
    let body = json!({"keypair": {"name": "made"}});
    let made = cloud.member.post(keys, body.clone()).await;
    assert_eq!(made.status, 200);
    let made = made.json();
    assert!(text(&made["keypair"]["private_key"]).contains("OPENSSH PRIVATE KEY"));
    assert!(made["keypair"].get("type").is_none());
    assert_eq!(cloud.member.post(keys, body).await.status, 409);
    let import = json!({"keypair": {
        "name": "mine", "type": "ssh", "public_key": made["keypair"]["public_key"],
    }});
    let imported = Cloud::at(&cloud.member, "POST", keys, Some(import), "2.10").await;
    assert_eq!(imported.status, 201, "{}", imported.json());
    assert_eq!(
        imported.json()["keypair"]["fingerprint"],
        made["keypair"]["fingerprint"]
    );
    assert!(imported.json()["keypair"].get("private_key").is_none());
    for (name, key) in [("x", "ssh-rsa nonsense"), ("x/y", "")] {
        let bad = json!({"keypair": {"name": name, "public_key": key}});
        assert_eq!(cloud.member.post(keys, bad).await.status, 400);
    }
    assert_eq!(cloud.admin.get(&format!("{keys}/mine")).await.status, 404);
    let mut body = cloud.server("with-key");
    body["server"]["key_name"] = json!("mine");
    assert_eq!(cloud.create(body).await.status, 202);
    let gone = Cloud::at(
        &cloud.member,
        "DELETE",
        &format!("{keys}/mine"),
        None,
        "2.10",
    )
    .await;
    assert_eq!(gone.status, 204);
    assert_eq!(
        cloud.member.delete(&format!("{keys}/made")).await.status,
        202
    );
}

#[tokio::test]
async fn flavors_are_an_administrators_to_make() {
    let cloud = cloud().await;
    let flavors = "/compute/v2.1/flavors";
    let body = json!({"flavor": {
        "name": "private", "id": "p1", "ram": 256, "vcpus": 1, "disk": 0,
        "os-flavor-access:is_public": false,
    }});
    assert_eq!(cloud.member.post(flavors, body.clone()).await.status, 403);
    assert_eq!(cloud.admin.post(flavors, body.clone()).await.status, 200);
    assert_eq!(cloud.admin.post(flavors, body).await.status, 409);
    let one = format!("{flavors}/p1");
    assert_eq!(cloud.member.get(&one).await.status, 404);
    let grant = json!({"addTenantAccess": {"tenant": cloud.project}});
    assert_eq!(
        cloud
            .admin
            .post(&format!("{one}/action"), grant)
            .await
            .status,
        200
    );
    let shown = cloud.member.get(&one).await.json();
    assert!(shown["flavor"].get("description").is_none());
    let shown = Cloud::at(&cloud.member, "GET", &one, None, "2.55")
        .await
        .json();
    assert_eq!(shown["flavor"]["description"], Value::Null);
    let specs = json!({"extra_specs": {"hw:x": "1"}});
    assert_eq!(
        cloud
            .admin
            .post(&format!("{one}/os-extra_specs"), specs)
            .await
            .status,
        200
    );
    let spec = cloud
        .member
        .get(&format!("{one}/os-extra_specs/hw:x"))
        .await;
    assert_eq!(spec.json(), json!({"hw:x": "1"}));
    for (field, value) in [
        ("ram", json!(0)),
        ("vcpus", json!("x")),
        ("swap", json!(5)),
        ("id", json!("a/b")),
    ] {
        let mut body = json!({"flavor": {"name": "bad", "ram": 1, "vcpus": 1, "disk": 1}});
        body["flavor"][field] = value;
        let answer = cloud.admin.post(flavors, body).await;
        assert_eq!(answer.status, 400, "{field}");
        assert!(message(&answer).contains(field));
    }
    assert_eq!(cloud.admin.delete(&one).await.status, 202);
    assert_eq!(cloud.admin.delete(&one).await.status, 404);
}

#[tokio::test]
async fn hosts_are_services_and_hypervisors_in_the_form_of_each_microversion() {
    let cloud = cloud().await;
    assert_eq!(
        cloud.member.get("/compute/v2.1/os-services").await.status,
        403
    );
    let services = async |version: &str| {
        let all = Cloud::at(
            &cloud.admin,
            "GET",
            "/compute/v2.1/os-services",
            None,
            version,
        )
        .await;
        all.json()["services"][0].clone()
    };
    let old = services("2.1").await;
    assert_eq!((&old["id"], &old["state"]), (&json!(1), &json!("up")));
    assert!(old.get("forced_down").is_none());
    assert_eq!(services("2.11").await["forced_down"], json!(false));
    assert_eq!(services("2.53").await["id"], json!(HOST));
    let one = format!("/compute/v2.1/os-services/{HOST}");
    let down =
        Some(json!({"forced_down": true, "status": "disabled", "disabled_reason": "broken"}));
    let changed = Cloud::at(&cloud.admin, "PUT", &one, down, "2.53").await;
    assert_eq!(changed.status, 200, "{}", changed.json());
    assert_eq!(changed.json()["service"]["state"], "down");
    let hypervisors = "/compute/v2.1/os-hypervisors/detail";
    let old = Cloud::at(&cloud.admin, "GET", hypervisors, None, "2.1")
        .await
        .json();
    assert!(old["hypervisors"][0]["cpu_info"].is_string());
    let new = Cloud::at(&cloud.admin, "GET", hypervisors, None, "2.53")
        .await
        .json();
    assert!(new["hypervisors"][0]["cpu_info"].is_object());
    assert_eq!(new["hypervisors"][0]["id"], json!(HOST));
    assert_eq!(new["hypervisors"][0]["free_ram_mb"], json!(16_384));
    let sums = cloud
        .admin
        .get("/compute/v2.1/os-hypervisors/statistics")
        .await
        .json();
    assert_eq!(sums["hypervisor_statistics"]["count"], 0);
    let zones = cloud
        .member
        .get("/compute/v2.1/os-availability-zone")
        .await
        .json();
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "nova");
    assert_eq!(zones["availabilityZoneInfo"][0]["hosts"], Value::Null);
}

#[tokio::test]
async fn limits_and_quotas_lose_what_later_microversions_dropped() {
    let cloud = cloud().await;
    let keys = async |path: &str, pointer: &str, version: &str| {
        let answer = Cloud::at(&cloud.member, "GET", path, None, version)
            .await
            .json();
        answer.pointer(pointer).unwrap().as_object().unwrap().len()
    };
    let limits = "/compute/v2.1/limits";
    for (version, count) in [("2.1", 19), ("2.36", 14), ("2.39", 13), ("2.57", 11)] {
        assert_eq!(
            keys(limits, "/limits/absolute", version).await,
            count,
            "{version}"
        );
    }
    let quotas = format!("/compute/v2.1/os-quota-sets/{}", cloud.project);
    for (version, count) in [("2.1", 15), ("2.36", 11), ("2.57", 8)] {
        assert_eq!(
            keys(&quotas, "/quota_set", version).await,
            count,
            "{version}"
        );
    }
    assert_eq!(
        cloud
            .member
            .put(&quotas, json!({"quota_set": {}}))
            .await
            .status,
        403
    );
    let unknown = json!({"quota_set": {"floating_ips": 5}});
    let refused = cloud.admin.put(&quotas, unknown).await;
    assert_eq!(
        message(&refused),
        "quota_set.floating_ips is not limited by this release."
    );
}

#[tokio::test]
async fn a_server_group_has_one_policy_and_hints_name_it() {
    let cloud = cloud().await;
    let groups = "/compute/v2.1/os-server-groups";
    let group = |policy: &str| json!({"server_group": {"name": "g", "policies": [policy]}});
    assert_eq!(
        cloud.member.post(groups, group("nonsense")).await.status,
        400
    );
    assert_eq!(
        cloud
            .member
            .post(groups, group("soft-affinity"))
            .await
            .status,
        400
    );
    let soft = Cloud::at(
        &cloud.member,
        "POST",
        groups,
        Some(group("soft-affinity")),
        "2.15",
    )
    .await;
    assert_eq!(soft.status, 200);
    let made = cloud
        .member
        .post(groups, group("anti-affinity"))
        .await
        .json();
    let id = text(&made["server_group"]["id"]);
    assert!(made["server_group"].get("project_id").is_none());
    let mut body = cloud.server("x");
    body["os:scheduler_hints"] = json!({"group": id});
    let server = cloud.create(body.clone()).await;
    let server = text(&server.json()["server"]["id"]);
    let shown = cloud.member.get(&format!("{groups}/{id}")).await.json();
    assert_eq!(shown["server_group"]["members"], json!([server]));
    body["os:scheduler_hints"] = json!({"query": "[]"});
    let refused = cloud.create(body).await;
    assert!(message(&refused).contains("query is not kept"));
    assert_eq!(
        cloud.member.delete(&format!("{groups}/{id}")).await.status,
        204
    );
}

#[tokio::test]
async fn security_groups_are_shown_in_novas_form_up_to_2_35() {
    let cloud = cloud().await;
    let path = "/compute/v2.1/os-security-groups";
    let body = json!({"security_group": {"name": "web", "description": "d"}});
    let group = cloud.member.post(path, body).await;
    assert_eq!(group.status, 200, "{}", group.json());
    let id = text(&group.json()["security_group"]["id"]);
    let rule = json!({"security_group_rule": {
        "parent_group_id": id, "ip_protocol": "tcp", "from_port": 22, "to_port": 22,
    }});
    let rules = "/compute/v2.1/os-security-group-rules";
    let made = cloud.member.post(rules, rule).await;
    assert_eq!(made.status, 200, "{}", made.json());
    let made = &made.json()["security_group_rule"];
    assert_eq!(made["ip_range"], json!({"cidr": "0.0.0.0/0"}));
    assert_eq!(
        (&made["from_port"], &made["group"]),
        (&json!(22), &json!({}))
    );
    let shown = cloud.member.get(&format!("{path}/{id}")).await.json();
    assert_eq!(
        shown["security_group"]["rules"].as_array().unwrap().len(),
        1
    );
    let late = Cloud::at(&cloud.member, "GET", path, None, "2.36").await;
    assert_eq!(late.status, 404);
    assert_eq!(
        cloud
            .member
            .delete(&format!("{rules}/{}", text(&made["id"])))
            .await
            .status,
        202
    );
    let server = cloud.created("x").await;
    let on = cloud
        .member
        .get(&format!("{SERVERS}/{server}/os-security-groups"))
        .await
        .json();
    assert_eq!(on["security_groups"][0]["name"], "default");
    assert_eq!(
        cloud.member.delete(&format!("{path}/{id}")).await.status,
        202
    );
}

#[tokio::test]
async fn user_data_and_addresses_are_kept_as_asked() {
    let cloud = cloud().await;
    let data = base64::engine::general_purpose::STANDARD.encode("#!/bin/sh\n");
    let mut body = cloud.server("x");
    body["server"]["user_data"] = json!(data);
    body["server"]["accessIPv6"] = json!("::babe:220.12.22.2");
    body["server"]["metadata"] = json!({"hello": "world"});
    body["server"]["adminPass"] = json!("secret");
    let made = cloud.create(body).await;
    assert_eq!(made.status, 202, "{}", made.json());
    let id = text(&made.json()["server"]["id"]);
    let path = format!("{SERVERS}/{id}");
    let shown = Cloud::at(&cloud.admin, "GET", &path, None, "2.3")
        .await
        .json();
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:user_data"], json!(data));
    assert_eq!(shown["server"]["accessIPv6"], "::babe:dc0c:1602");
    let stored = cloud
        .app
        .store
        .tx(|tx| {
            let id = id.parse().unwrap();
            Box::pin(async move { instances::load(tx, id).await })
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.body.metadata["hello"], "world");
    let renamed = json!({"server": {"name": "y", "accessIPv4": "1.2.3.4"}});
    let renamed = cloud.member.put(&path, renamed).await.json();
    assert_eq!(renamed["server"]["name"], "y");
    assert_eq!(renamed["server"]["accessIPv4"], "1.2.3.4");
    assert!(renamed["server"].get("OS-EXT-STS:vm_state").is_none());
}
