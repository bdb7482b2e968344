#![allow(clippy::unwrap_used)]
use crate::testing::{Answer, Client, app};
use serde_json::{Value, json};

const IMAGES: &str = "/image/v2/images";
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
const PATCH: (&str, &str) = (
    "content-type",
    "application/openstack-images-v2.1-json-patch",
);

async fn create(client: &Client, mut extra: Value) -> String {
    for (key, value) in [("disk_format", "raw"), ("container_format", "bare")] {
        if extra.get(key).is_none() {
            extra[key] = json!(value);
        }
    }
    let answer = client.post(IMAGES, extra).await;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn upload(client: &Client, id: &str, data: &[u8]) -> Answer {
    let path = format!("{IMAGES}/{id}/file");
    client
        .send("PUT", &path, Some(data.to_vec()), &[OCTETS])
        .await
}

async fn patch(client: &Client, id: &str, body: Value) -> Answer {
    let path = format!("{IMAGES}/{id}");
    client
        .send("PATCH", &path, Some(body.to_string().into()), &[PATCH])
        .await
}

#[tokio::test]
async fn an_image_is_queued_uploaded_once_and_downloaded_whole_or_in_part() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let id = create(&client, json!({"name": "i", "kernel_id": "k"})).await;
    let file = format!("{IMAGES}/{id}/file");
    let empty = client.get(&file).await;
    assert_eq!((empty.status.as_u16(), empty.bytes.len()), (204, 0));
    assert_eq!(upload(&client, &id, b"abc").await.status, 204);
    let shown = client.get(&format!("{IMAGES}/{id}")).await.json();
    assert_eq!(shown["status"], "active");
    assert_eq!(shown["size"], 3);
    assert_eq!(shown["checksum"], "900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(shown["os_hash_algo"], "sha512");
    assert_eq!(shown["kernel_id"], "k");
    let data = client.get(&file).await;
    assert_eq!(
        (data.status.as_u16(), data.bytes.as_slice()),
        (200, b"abc".as_slice())
    );
    let part = client
        .send("GET", &file, None, &[("range", "bytes=1-")])
        .await;
    assert_eq!(
        (part.status.as_u16(), part.bytes.as_slice()),
        (206, b"bc".as_slice())
    );
    assert_eq!(upload(&client, &id, b"again").await.status, 409);
    assert_eq!(client.delete(&format!("{IMAGES}/{id}")).await.status, 204);
    assert_eq!(client.get(&file).await.status, 404);
    assert_eq!(std::fs::read_dir(&*app.image_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_promised_checksum_is_kept_or_the_upload_names_both() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let md5 = "owner_specified.openstack.md5";
    let id = create(&client, json!({md5: "00000000000000000000000000000000"})).await;
    let answer = upload(&client, &id, b"abc").await;
    assert_eq!(answer.status, 400);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("900150983cd24fb0d6963f7d28e17f72"),
        "{message}"
    );
    assert!(message.contains("0000000"), "{message}");
    assert_eq!(
        client.get(&format!("{IMAGES}/{id}")).await.json()["status"],
        "queued"
    );
    let right = json!([{"op": "replace", "path": format!("/{md5}"), "value": "900150983CD24FB0D6963F7D28E17F72"}]);
    assert_eq!(patch(&client, &id, right).await.status, 200);
    assert_eq!(upload(&client, &id, b"abc").await.status, 204);
}

#[tokio::test]
async fn too_large_or_without_format_or_type_is_refused_by_its_name() {
    let mut app = app().await;
    app.settings = std::sync::Arc::new(berth_controller_core::ApiSettings {
        max_image_bytes: 2,
        ..Default::default()
    });
    let client = Client::admin(&app).await;
    let id = create(&client, json!({})).await;
    let answer = upload(&client, &id, b"abc").await;
    assert_eq!(answer.status, 413);
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .contains("max_image_bytes")
    );
    assert_eq!(std::fs::read_dir(&*app.image_dir).unwrap().count(), 0);
    let path = format!("{IMAGES}/{id}/file");
    assert_eq!(
        client
            .send("PUT", &path, Some(b"a".to_vec()), &[])
            .await
            .status,
        415
    );
    let answer = client.post(IMAGES, json!({"name": "bare"})).await.json();
    assert_eq!(
        upload(&client, answer["id"].as_str().unwrap(), b"a")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn both_patch_dialects_work_and_read_only_fields_are_403() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let id = create(&client, json!({"name": "a"})).await;
    for (body, status) in [
        (json!([{"replace": "/name", "value": "b"}]), 200),
        (
            json!([{"op": "add", "path": "/os_command_line", "value": "quiet"}]),
            200,
        ),
        (
            json!([{"op": "replace", "path": "/status", "value": "active"}]),
            403,
        ),
        (json!([{"op": "remove", "path": "/nothing"}]), 409),
        (json!([{"op": "move", "path": "/name", "value": "x"}]), 400),
        (
            json!([{"op": "replace", "path": "/min_ram", "value": -1}]),
            400,
        ),
        (
            json!([{"op": "replace", "path": "/name", "value": "x".repeat(256)}]),
            400,
        ),
        (json!([{"op": "add", "path": "/p", "value": 5}]), 400),
        (json!({"op": "add"}), 400),
    ] {
        assert_eq!(
            patch(&client, &id, body.clone()).await.status.as_u16(),
            status,
            "{body}"
        );
    }
    let shown = client.get(&format!("{IMAGES}/{id}")).await.json();
    assert_eq!(
        (&shown["name"], &shown["os_command_line"]),
        (&json!("b"), &json!("quiet"))
    );
    let plain = client.patch(&format!("{IMAGES}/{id}"), json!([])).await;
    assert_eq!(plain.status, 415);
}

#[tokio::test]
async fn a_private_image_is_its_projects_and_a_public_one_everybodys_to_read() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let (bob, _) = admin.member("bob").await;
    let private = create(&alice, json!({"visibility": "private"})).await;
    assert_eq!(bob.get(&format!("{IMAGES}/{private}")).await.status, 404);
    assert_eq!(bob.delete(&format!("{IMAGES}/{private}")).await.status, 404);
    assert_eq!(
        alice
            .post(IMAGES, json!({"visibility": "public"}))
            .await
            .status,
        403
    );
    let public = create(&admin, json!({"visibility": "public", "protected": true})).await;
    assert_eq!(bob.get(&format!("{IMAGES}/{public}")).await.status, 200);
    assert_eq!(bob.delete(&format!("{IMAGES}/{public}")).await.status, 403);
    assert_eq!(
        admin.delete(&format!("{IMAGES}/{public}")).await.status,
        403
    );
    let listed = bob.get(IMAGES).await.json();
    assert_eq!(listed["images"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn only_a_uuid_names_an_image() {
    let app = app().await;
    let client = Client::admin(&app).await;
    for id in [
        "..%2F..%2Fetc%2Fpasswd",
        "name",
        "%7B00000000-0000-0000-0000-000000000000%7D",
    ] {
        assert_eq!(
            client.get(&format!("{IMAGES}/{id}")).await.status,
            404,
            "{id}"
        );
        assert_eq!(
            client.get(&format!("{IMAGES}/{id}/file")).await.status,
            404,
            "{id}"
        );
        assert_eq!(
            client.delete(&format!("{IMAGES}/{id}")).await.status,
            404,
            "{id}"
        );
    }
    assert_eq!(client.post(IMAGES, json!({"id": "../x"})).await.status, 400);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let mut ids = Vec::new();
    for (n, name) in ["a", "b", "c"].iter().enumerate() {
        let id = create(&client, json!({"name": name, "min_ram": n, "tags": [name]})).await;
        upload(&client, &id, &vec![0; n + 1]).await;
        ids.push(id);
    }
    let names = async |query: &str| -> String {
        let all = client.get(&format!("{IMAGES}?{query}")).await.json();
        all["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(names("sort=name:asc").await, "abc");
    assert_eq!(names("sort_key=min_ram&sort_dir=desc").await, "cba");
    assert_eq!(names("size_min=2&sort=name:asc").await, "bc");
    assert_eq!(names("tag=b").await, "b");
    assert_eq!(names("name=in:a,c&sort=name:asc").await, "ac");
    assert_eq!(
        names(&format!("id=in:{},{}&sort=name:asc", ids[0], ids[1])).await,
        "ab"
    );
    assert_eq!(
        names("created_at=gt:2000-01-01T00:00:00Z&sort=name:asc").await,
        "abc"
    );
    // Falling is Glance's default, and a time without a zone is UTC.
    assert_eq!(names("sort_key=name").await, "cba");
    assert_eq!(names("sort=name").await, "cba");
    assert_eq!(
        names("created_at=gte:2016-04-18T21:38:54&sort=name:asc").await,
        "abc"
    );
    assert_eq!(names("created_at=lt:2016-04-18T21:38:54").await, "");
    assert_eq!(names("tag=a&tag=b").await, "");
    let page = client
        .get(&format!("{IMAGES}?sort=name:asc&limit=2"))
        .await
        .json();
    let next = page["next"].as_str().unwrap().to_owned();
    let rest = client.get(&format!("/image{next}")).await.json();
    assert_eq!(rest["images"][0]["name"], "c");
    assert!(rest.get("next").is_none());
    assert_eq!(client.get(&format!("{IMAGES}?limit=-1")).await.status, 400);
    assert_eq!(
        client
            .get(&format!("{IMAGES}?created_at=gt:soon"))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_qcow2_image_shows_the_size_of_its_disk_and_one_that_no_host_takes_is_refused() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let id = create(&client, json!({"disk_format": "qcow2"})).await;
    let answer = upload(&client, &id, b"raw bytes, never taken for a disk").await;
    assert_eq!(answer.status, 415);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no qcow2 file"), "{message}");
    let mut backed = crate::qcow2::header(5 << 30);
    backed[15] = 200;
    let answer = upload(&client, &id, &backed).await;
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("another file"), "{message}");
    let path = format!("{IMAGES}/{id}");
    let shown = client.get(&path).await.json();
    assert_eq!(
        (&shown["status"], &shown["size"]),
        (&json!("queued"), &Value::Null)
    );

    let sound = crate::qcow2::header(5 << 30);
    assert_eq!(upload(&client, &id, &sound).await.status, 204);
    let shown = client.get(&path).await.json();
    assert_eq!(shown["size"], sound.len());
    assert_eq!(shown["virtual_size"], 5_u64 << 30);
    let listed = client.get(IMAGES).await.json();
    assert_eq!(listed["images"][0]["virtual_size"], 5_u64 << 30);

    let raw = create(&client, json!({})).await;
    assert_eq!(upload(&client, &raw, b"abc").await.status, 204);
    let shown = client.get(&format!("{IMAGES}/{raw}")).await.json();
    assert_eq!(shown["virtual_size"], 3);
}

#[tokio::test]
async fn a_project_stores_so_many_bytes_and_gets_them_back() {
    let mut app = app().await;
    app.settings = std::sync::Arc::new(berth_controller_core::ApiSettings {
        project_image_bytes: 4,
        ..Default::default()
    });
    let client = Client::admin(&app).await;
    let first = create(&client, json!({})).await;
    assert_eq!(upload(&client, &first, b"abc").await.status, 204);
    let second = create(&client, json!({})).await;
    let refused = upload(&client, &second, b"de").await;
    assert_eq!(refused.status, 413);
    let said = refused.json()["message"].to_string();
    assert!(said.contains("project_image_bytes"), "{said}");
    assert_eq!(upload(&client, &second, b"d").await.status, 204);
    // Nothing is left: it is said before a byte is sent.
    let third = create(&client, json!({})).await;
    let refused = upload(&client, &third, b"").await;
    assert_eq!(refused.status, 413);
    let said = refused.json()["message"].to_string();
    assert!(said.contains("stores 4 bytes"), "{said}");
    // Another project has its own.
    let (other, _) = client.member("other").await;
    let theirs = create(&other, json!({})).await;
    assert_eq!(upload(&other, &theirs, b"abcd").await.status, 204);
    assert_eq!(
        client.delete(&format!("{IMAGES}/{first}")).await.status,
        204
    );
    assert_eq!(upload(&client, &third, b"abc").await.status, 204);
}

#[tokio::test]
async fn an_upload_that_was_given_up_and_goes_on_after_all_takes_nothing_from_the_next_one() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let id = create(&client, json!({})).await;
    // It has sent everything, and stands still just before its file gets a name.
    let stalled = uuid::Uuid::from_u128(1);
    let chunks = futures::stream::iter([Ok::<_, String>(bytes::Bytes::from("stale"))]);
    let part = crate::files::receive(&app.image_dir, stalled, 100, chunks)
        .await
        .unwrap();
    // Meanwhile it was given up, and another upload ended well.
    assert_eq!(upload(&client, &id, b"fresh").await.status, 204);
    let gone = super::data::keep(&app, id.parse().unwrap(), stalled, part, None).await;
    assert_eq!(gone.unwrap_err().status, 410);
    let shown = client.get(&format!("{IMAGES}/{id}")).await.json();
    assert_eq!(
        (&shown["status"], &shown["size"]),
        (&json!("active"), &json!(5))
    );
    let data = client.get(&format!("{IMAGES}/{id}/file")).await;
    assert_eq!(data.bytes, b"fresh");
}

#[tokio::test]
async fn the_release_before_and_this_one_read_each_others_images() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let id = create(&client, json!({})).await;
    assert_eq!(upload(&client, &id, b"abc").await.status, 204);
    let older = crate::files::older_path(&app.image_dir, id.parse().unwrap());
    assert_eq!(std::fs::read(&older).unwrap(), b"abc");
    // As that release leaves it: under the image's id alone.
    for entry in std::fs::read_dir(&*app.image_dir).unwrap() {
        let path = entry.unwrap().path();
        if path != older {
            std::fs::remove_file(path).unwrap();
        }
    }
    let data = client.get(&format!("{IMAGES}/{id}/file")).await;
    assert_eq!(data.bytes, b"abc");
}

#[tokio::test]
async fn a_property_is_filtered_by_whole() {
    let app = app().await;
    let client = Client::admin(&app).await;
    create(&client, json!({"name": "a", "os": "debian"})).await;
    create(
        &client,
        json!({"name": "b", "os": "debian 12", "note": "\"os\":\"debian\""}),
    )
    .await;
    for (query, found) in [
        ("os=debian", "a"),
        ("os=debian%2012", "b"),
        ("os=deb", ""),
        ("s=debian", ""),
    ] {
        let list = client.get(&format!("{IMAGES}?{query}")).await.json();
        let names: String = list["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, found, "{query}");
    }
}

#[tokio::test]
async fn a_list_that_is_deleted_page_by_page_is_deleted_whole() {
    let app = app().await;
    let client = Client::admin(&app).await;
    for name in ["a", "b", "c"] {
        create(&client, json!({"name": name})).await;
    }
    let mut query = Some(format!("{IMAGES}?limit=1&sort=name:asc"));
    let mut names = String::new();
    while let Some(page) = query {
        let list = client.get(&page).await;
        assert_eq!(list.status, 200, "{page}");
        let list = list.json();
        names.push_str(list["images"][0]["name"].as_str().unwrap());
        let id = list["images"][0]["id"].as_str().unwrap();
        assert_eq!(client.delete(&format!("{IMAGES}/{id}")).await.status, 204);
        query = list["next"].as_str().map(|next| format!("/image{next}"));
    }
    assert_eq!(names, "abc");
}

#[tokio::test]
async fn a_media_type_is_one_whatever_its_case_and_parameters() {
    let app = app().await;
    let client = Client::admin(&app).await;
    for kind in [
        "application/octet-stream; charset=UTF-8",
        "APPLICATION/Octet-Stream",
        "application/octet-stream ",
        "application/octet-stream;",
    ] {
        let id = create(
            &client,
            json!({"disk_format": "raw", "container_format": "bare"}),
        )
        .await;
        let path = format!("{IMAGES}/{id}/file");
        let header = ("content-type", kind);
        let answer = client.send("PUT", &path, Some(vec![0]), &[header]).await;
        assert_eq!(answer.status, 204, "{kind}");
    }
}

#[tokio::test]
async fn an_image_is_shared_with_the_projects_that_its_owner_names_and_that_want_it() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let (bob, his) = admin.member("bob").await;
    let (carol, _) = admin.member("carol").await;
    let id = create(&alice, json!({"name": "i"})).await;
    let (image, members) = (format!("{IMAGES}/{id}"), format!("{IMAGES}/{id}/members"));
    assert_eq!(bob.get(&image).await.status, 404);
    assert_eq!(bob.post(&members, json!({"member": his})).await.status, 404);
    let made = alice.post(&members, json!({"member": his})).await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(made.json()["status"], "pending");
    let again = alice.post(&members, json!({"member": his})).await;
    assert_eq!(again.status, 409);
    // By its id at once; in a list once he wants it.
    assert_eq!(bob.get(&image).await.status, 200);
    let listed = async |query: &str| {
        let list = bob.get(&format!("{IMAGES}{query}")).await.json();
        list["images"].as_array().unwrap().len()
    };
    assert_eq!(listed("").await, 0);
    assert_eq!(listed("?member_status=pending").await, 1);
    let own = format!("{members}/{his}");
    assert_eq!(
        alice.put(&own, json!({"status": "accepted"})).await.status,
        403
    );
    assert_eq!(
        bob.put(&own, json!({"status": "perhaps"})).await.status,
        400
    );
    let accepted = bob.put(&own, json!({"status": "accepted"})).await;
    assert_eq!(accepted.json()["status"], "accepted");
    assert_eq!(listed("").await, 1);
    assert_eq!(listed("?visibility=shared&member_status=all").await, 1);
    // He may look, and no more; others may not even that.
    assert_eq!(bob.delete(&image).await.status, 403);
    assert_eq!(bob.delete(&own).await.status, 403);
    assert_eq!(carol.get(&image).await.status, 404);
    assert_eq!(carol.get(&members).await.status, 404);
    let seen = bob.get(&members).await.json();
    assert_eq!(seen["members"].as_array().unwrap().len(), 1);
    // Private, it is nobody else's, whoever its members are.
    let private = json!([{"op": "replace", "path": "/visibility", "value": "private"}]);
    assert_eq!(patch(&alice, &id, private).await.status, 200);
    assert_eq!(bob.get(&image).await.status, 404);
    assert_eq!(listed("").await, 0);
    let shared = json!([{"op": "replace", "path": "/visibility", "value": "shared"}]);
    assert_eq!(patch(&alice, &id, shared).await.status, 200);
    assert_eq!(alice.delete(&own).await.status, 204);
    assert_eq!(alice.delete(&own).await.status, 404);
    assert_eq!(bob.get(&image).await.status, 404);
}
