//! Servers: shown, listed, acted upon.

use super::*;

/// What the client sends that wants the newest microversion.
const NEWEST: (&str, &str) = ("openstack-api-version", "compute latest");

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
async fn a_page_begins_behind_a_server_that_was_deleted_or_left_the_filter() {
    let cloud = cloud().await;
    for name in ["web-1", "web-2", "web-3", "db"] {
        cloud.created(name).await;
    }
    // Three, of which SQL can say all, and one that is matched on the rows.
    for query in ["?", "?name=web&", "?status=BUILD&", "?name=web-[0-9]&"] {
        let first = format!("{SERVERS}{query}limit=1&sort_key=display_name");
        let first = cloud.member.get(&first).await.json();
        let id = text(&first["servers"][0]["id"]);
        let next = text(&first["servers_links"][0]["href"]);
        let next = next.strip_prefix("http://controller.test").unwrap();
        let before = cloud.member.get(next).await.json();
        // Gone for good, or no server of the list any more.
        for sql in [
            "UPDATE instances SET deleted_at = 1, vm_state = 'deleted', name = 'web-3' WHERE id = $1",
            "UPDATE instances SET deleted_at = NULL, vm_state = 'error' WHERE id = $1",
        ] {
            cloud.execute(sql, &id).await;
            let after = cloud.member.get(next).await;
            assert_eq!(after.status, 200, "{next}: {}", after.json());
            assert_eq!(after.json()["servers"], before["servers"], "{next}");
        }
        cloud
            .execute(
                "UPDATE instances SET vm_state = 'building' WHERE id = $1",
                &id,
            )
            .await;
    }
}

#[tokio::test]
async fn keypairs_and_flavors_are_deleted_page_by_page() {
    let cloud = cloud().await;
    for name in ["a", "b", "c"] {
        let body = json!({"keypair": {"name": name}});
        let made = cloud.member.post("/compute/v2.1/os-keypairs", body).await;
        assert_eq!(made.status, 200);
    }
    let mut names = String::new();
    let mut query = Some("/compute/v2.1/os-keypairs?limit=1".to_owned());
    while let Some(page) = query {
        let list = cloud.member.send("GET", &page, None, &[NEWEST]).await;
        assert_eq!(list.status, 200, "{page}: {}", list.json());
        let list = list.json();
        if let Some(name) = list["keypairs"][0]["keypair"]["name"].as_str() {
            names.push_str(name);
            let path = format!("/compute/v2.1/os-keypairs/{name}");
            let gone = cloud.member.send("DELETE", &path, None, &[NEWEST]).await;
            assert_eq!(gone.status, 204);
        }
        let next = list["keypairs_links"][0]["href"].as_str();
        query = next.map(|href| {
            href.strip_prefix("http://controller.test")
                .unwrap()
                .to_owned()
        });
    }
    assert_eq!(names, "abc");
    let first = cloud
        .admin
        .get("/compute/v2.1/flavors?limit=1")
        .await
        .json();
    let id = text(&first["flavors"][0]["id"]);
    let next = text(&first["flavors_links"][0]["href"]);
    let next = next.strip_prefix("http://controller.test").unwrap();
    let before = cloud.member.get(next).await.json();
    let gone = cloud
        .admin
        .delete(&format!("/compute/v2.1/flavors/{id}"))
        .await;
    assert_eq!(gone.status, 202);
    assert_eq!(cloud.member.get(next).await.json(), before);
    let never = cloud.member.get("/compute/v2.1/flavors?marker=never").await;
    assert_eq!(never.status, 400);
}
