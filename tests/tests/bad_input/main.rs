//! Bad input, from every side: callers, files, the queue. Each is answered with the status code
//! that OpenStack's services give and a message that names the cause; nothing else is harmed.
#![allow(clippy::unwrap_used, missing_docs)]

mod tenants;
mod vmm;
mod world;

use serde_json::{Value, json};
use std::time::Duration;
use world::{Caller, Wire, World, text};

/// A project and a user in it of this name, without any power beyond it.
async fn member<'w>(world: &'w World, admin: &Caller<'_>, name: &str) -> (Caller<'w>, String) {
    let project = json!({"project": {"name": name}});
    let project = admin.post("/identity/v3/projects", project).await;
    let project = text(&project.taken(201)["project"]["id"]);
    let user = json!({"user": {"name": name, "password": "secret"}});
    let user = admin.post("/identity/v3/users", user).await;
    let user = text(&user.taken(201)["user"]["id"]);
    let roles = admin.get("/identity/v3/roles?name=member").await;
    let role = text(&roles.taken(200)["roles"][0]["id"]);
    let grant = format!("/identity/v3/projects/{project}/users/{user}/roles/{role}");
    admin.call("PUT", &grant, Value::Null).await.taken(204);
    (world.login(name).await, project)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_cannot_be_made_from_is_named() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "small"})).await;
    let flavor = admin.flavor(1, 1).await;

    let none = "00000000-0000-4000-8000-000000000000";
    let answer = admin.server("web", &image, "no-such-flavor").await;
    answer.refused(400, &["Flavor no-such-flavor could not be found"]);
    let answer = admin.get("/compute/v2.1/flavors/no-such-flavor").await;
    answer.refused(404, &["no-such-flavor"]);
    let answer = admin.server("web", none, &flavor).await;
    answer.refused(400, &["Can not find requested image", none]);
    let answer = admin.get(&format!("/image/v2/images/{none}")).await;
    answer.refused(404, &[none]);

    // The image says 5 GiB, the flavor has 1.
    let large = admin.image(json!({"name": "large", "min_disk": 5})).await;
    let answer = admin.server("web", &large, &flavor).await;
    answer.refused(400, &["disk is too small", "1 GB", "minimum of 5 GB"]);

    // And this one has more bytes than that.
    let grown = admin.image(json!({"name": "grown"})).await;
    world.image_has(&grown, (1 << 30) + 1).await;
    let answer = admin.server("web", &grown, &flavor).await;
    answer.refused(
        400,
        &[
            "Flavor's disk is too small for requested image",
            "Flavor disk is 1073741824 bytes, image is 1073741825 bytes",
        ],
    );

    // The same of a qcow2 image, whose file says less than its header does.
    let sparse = json!({"name": "sparse", "disk_format": "qcow2", "container_format": "bare"});
    let sparse = text(&admin.post("/image/v2/images", sparse).await.taken(201)["id"]);
    let answer = admin.put_file(&sparse, "a disk, by its own word").await;
    answer.refused(415, &[&sparse, "disk_format qcow2", "no qcow2 file"]);
    // QEMU, docs/interop/qcow2.rst: magic, version 3; at 24 the size.
    let mut header = vec![0_u8; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[24..32].copy_from_slice(&(2_u64 << 30).to_be_bytes());
    admin.put_file(&sparse, header).await.taken(204);
    let answer = admin.server("web", &sparse, &flavor).await;
    answer.refused(
        400,
        &["Flavor disk is 1073741824 bytes, image is 2147483648 bytes"],
    );

    let unfinished = json!({"name": "queued", "disk_format": "raw", "container_format": "bare"});
    let unfinished = admin.post("/image/v2/images", unfinished).await;
    let unfinished = text(&unfinished.taken(201)["id"]);
    let answer = admin.server("web", &unfinished, &flavor).await;
    answer.refused(400, &[&unfinished, "queued"]);

    let body = axum::body::Body::from("{\"server\": ");
    let token = &admin.token;
    let answer = world
        .send(token, "POST", "/compute/v2.1/servers", body)
        .await;
    answer.refused(400, &["JSON"]);
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_booted_is_refused_at_once_with_the_property_to_set() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let flavor = admin.flavor(1, 1).await;
    let (member, _) = member(&world, &admin, "tenant").await;

    let bare = admin.disk(json!({"name": "bare"})).await;
    let answer = admin.server("web", &bare, &flavor).await;
    answer.refused(400, &[&bare, "kernel_id", "ramdisk_id", "os_command_line"]);

    let kernel = admin.kernel("public").await;
    let waiting = json!({"name": "k", "disk_format": "aki", "container_format": "aki"});
    let waiting = admin.post("/image/v2/images", waiting).await;
    let waiting = text(&waiting.taken(201)["id"]);
    let none = "00000000-0000-4000-8000-000000000000";
    for (property, id, why) in [
        ("kernel_id", none, "there is no image"),
        ("kernel_id", "not-an-id", "there is no image"),
        ("kernel_id", &waiting, "status queued"),
        ("ramdisk_id", none, "there is no image"),
        ("ramdisk_id", &waiting, "status queued"),
    ] {
        let mut about = json!({"name": "i", "kernel_id": kernel});
        about[property] = json!(id);
        let image = admin.disk(about).await;
        let answer = admin.server("web", &image, &flavor).await;
        answer.refused(400, &[&image, property, id, why]);
    }

    // Another project's kernel is not there.
    let private = admin.kernel("private").await;
    let image = admin.disk(json!({"name": "i", "kernel_id": private})).await;
    let answer = member.server("web", &image, &flavor).await;
    answer.refused(400, &[&image, "kernel_id", &private, "there is no image"]);
    let servers = admin.get("/compute/v2.1/servers").await;
    assert_eq!(servers.taken(200)["servers"], json!([]));
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_quota_names_the_resource_and_its_limit() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(2, 1).await;
    let (member, project) = member(&world, &admin, "tenant").await;
    let quota = format!("/compute/v2.1/os-quota-sets/{project}");
    let one = json!({"quota_set": {"cores": 1}});
    admin.call("PUT", &quota, one).await.taken(200);
    let answer = member.server("web", &image, &flavor).await;
    answer.refused(403, &["Quota exceeded for cores", "Requested 2", "1"]);
    let servers = member.get("/compute/v2.1/servers").await;
    assert_eq!(servers.taken(200)["servers"], json!([]));
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_what_was_promised_is_refused_and_may_be_tried_again() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    // SHA-256 of "disk".
    let promised = "1044dec7206e8d7c9fbb4ae8f766668406d2567fc7fc1a160a9d4700fcf8f8e9";
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare",
        "owner_specified.openstack.sha256": promised});
    let image = text(&admin.post("/image/v2/images", image).await.taken(201)["id"]);
    let answer = admin.put_file(&image, "another disk").await;
    answer.refused(400, &["Checksum mismatch", promised, "sha256"]);
    let shown = admin.get(&format!("/image/v2/images/{image}")).await;
    assert_eq!(shown.taken(200)["status"], "queued");
    admin.put_file(&image, "disk").await.taken(204);
    let shown = admin.get(&format!("/image/v2/images/{image}")).await;
    assert_eq!(shown.taken(200)["status"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_or_never_was_is_refused() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    admin.get("/compute/v2.1/servers").await.taken(200);
    world.time_passes(Duration::from_secs(31 * 24 * 3600));
    for path in [
        "/compute/v2.1/servers",
        "/image/v2/images",
        "/network/v2.0/networks",
        "/identity/v3/projects",
    ] {
        admin.get(path).await.refused(401, &["expired"]);
    }
    let made_up = world.send("made-up", "GET", "/compute/v2.1/servers", "".into());
    made_up.await.refused(401, &["token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_projects_server_is_not_there() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(1, 1).await;
    let (owner, _) = member(&world, &admin, "owner").await;
    let (other, _) = member(&world, &admin, "other").await;
    let server = owner.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    owner.until(&server, "ACTIVE").await;
    let path = format!("/compute/v2.1/servers/{server}");
    let words = format!("Instance {server} could not be found");
    other.get(&path).await.refused(404, &[&words]);
    let deleted = other.call("DELETE", &path, Value::Null).await;
    deleted.refused(404, &[&words]);
    let action = format!("{path}/action");
    let stopped = other.post(&action, json!({"os-stop": null})).await;
    stopped.refused(404, &[&words]);
    owner.until(&server, "ACTIVE").await;
    owner.delete(&server).await;
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_as_long_and_as_odd_as_the_real_services_take_them() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(1, 1).await;
    let long = "n".repeat(256);
    let called = |kind: &str, name: &str| match kind {
        "image" => json!({"name": name, "disk_format": "raw", "container_format": "bare"}),
        kind => json!({kind: {"name": name}}),
    };
    admin
        .server(&long, &image, &flavor)
        .await
        .refused(400, &["name", "255"]);
    let networks = "/network/v2.0/networks";
    let answer = admin.post(networks, called("network", &long)).await;
    answer.refused(400, &["name", "255"]);
    let images = "/image/v2/images";
    let answer = admin.post(images, called("image", &long)).await;
    answer.refused(400, &["name", "255"]);
    let answer = admin
        .post("/compute/v2.1/os-keypairs", called("keypair", &long))
        .await;
    answer.refused(400, &["name"]);

    admin
        .post(networks, called("network", "a/b"))
        .await
        .taken(201);
    admin.post(images, called("image", "a/b")).await.taken(201);
    // Nova's own rule for keys: letters, digits, spaces, "_" and "-".
    let answer = admin
        .post("/compute/v2.1/os-keypairs", called("keypair", "a/b"))
        .await;
    answer.refused(400, &["name"]);
    let server = admin.server("a/b", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    let shown = admin.until(&server, "ACTIVE").await;
    assert_eq!(shown["name"], "a/b");
    admin.delete(&server).await;
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_ends_its_own_operation_and_the_agent_goes_on() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(1, 1).await;
    // Nobody's: it goes to the dead letters, and that is all.
    for (id, bytes) in [
        ("odd", b"\xff\xfe not JSON".as_slice()),
        ("00000000-0000-4000-8000-000000000001", b"{}"),
        ("00000000-0000-4000-8000-000000000002", b""),
    ] {
        world.publish(id, bytes).await;
    }
    // A server's command, damaged on its way.
    world.set_wire(Wire::Garbled);
    let server = admin.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    let failed = admin.until(&server, "ERROR").await;
    let fault = text(&failed["fault"]["message"]);
    let queue = format!("dead letters of agent.{}", world.host_id);
    assert!(fault.contains(&queue), "{fault}");
    world.set_wire(Wire::Sound);
    admin.delete(&server).await;
    works(&world, &admin, &image, &flavor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_one_version_behind_says_so_and_the_user_is_told() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(1, 1).await;
    world.set_wire(Wire::Newer);
    let server = admin.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    let failed = admin.until(&server, "ERROR").await;
    let fault = text(&failed["fault"]["message"]);
    assert!(fault.contains("versions 1 to 1"), "{fault}");
    world.set_wire(Wire::Sound);
    admin.delete(&server).await;
    works(&world, &admin, &image, &flavor).await;
}

/// A server can still be made, and nothing is left of what failed.
async fn works(world: &World, admin: &Caller<'_>, image: &str, flavor: &str) {
    let server = admin.server("after", image, flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    admin.until(&server, "ACTIVE").await;
    admin.delete(&server).await;
    world.in_order().await;
}
