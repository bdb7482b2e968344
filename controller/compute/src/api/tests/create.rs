//! `POST /servers`.

use super::*;
use crate::instances;

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
                let operations: Vec<(String, String)> = tx
                    .query("SELECT kind, instance_id FROM operations", params![])
                    .await?;
                let disks: Vec<(i64,)> = tx.query("SELECT size_gib FROM disks", params![]).await?;
                Ok::<_, StoreError>((operations, disks))
            })
        })
        .await
        .unwrap();
    assert_eq!(rows.0, [("create".to_owned(), id.to_owned())]);
    assert_eq!(rows.1, [(1,)]);
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
        .tx(|tx| {
            Box::pin(async move {
                tx.query::<(String,)>("SELECT id FROM ports", params![])
                    .await
            })
        })
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
