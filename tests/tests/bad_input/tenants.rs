//! Tenants who reach for what is not theirs: each way that once worked, against the running cloud.

use super::*;

const IMAGES: &str = "/image/v2/images";

/// A user of this name with a role on a project, a domain or the system; their token for it.
async fn user_with<'w>(
    world: &'w World,
    admin: &Caller<'_>,
    (name, domain): (&str, &str),
    (role, on): (&str, &str),
    scope: Value,
) -> (Caller<'w>, String) {
    let user = json!({"user": {"name": name, "password": "secret", "domain_id": domain}});
    let user = admin.post("/identity/v3/users", user).await;
    let user = text(&user.taken(201)["user"]["id"]);
    let roles = admin.get(&format!("/identity/v3/roles?name={role}")).await;
    let role = text(&roles.taken(200)["roles"][0]["id"]);
    let grant = format!("/identity/v3/{on}/users/{user}/roles/{role}");
    admin.call("PUT", &grant, Value::Null).await.taken(204);
    (world.login_as(&user, scope).await, user)
}

async fn stop_and_start(owner: &Caller<'_>, server: &str) {
    let action = format!("/compute/v2.1/servers/{server}/action");
    for (what, status) in [("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")] {
        owner.post(&action, json!({what: null})).await.taken(202);
        owner.until(server, status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_image_takes_the_place_of_one_that_a_server_was_made_from() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let kernel = admin.kernel("public").await;
    let image = admin.disk(json!({"name": "i", "kernel_id": kernel})).await;
    let flavor = admin.flavor(1, 1).await;
    let (owner, _) = member(&world, &admin, "owner").await;
    let (other, _) = member(&world, &admin, "other").await;
    let server = owner.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    owner.until(&server, "ACTIVE").await;
    let built = world.last_order(&server).await;

    // The images are retired; somebody else makes ones with their ids.
    for id in [&kernel, &image] {
        let path = format!("{IMAGES}/{id}");
        admin.call("DELETE", &path, Value::Null).await.taken(204);
        let theirs = json!({"id": id, "disk_format": "aki", "container_format": "aki"});
        let words = [&*format!("Image ID {id} already exists")];
        other.post(IMAGES, theirs).await.refused(409, &words);
    }
    stop_and_start(&owner, &server).await;
    let started = world.last_order(&server).await;
    assert_eq!(started["method"], "vmm.start");
    assert!(started["body"]["boot"]["kernel"]["sha512"].is_string());
    for part in ["kernel", "ramdisk"] {
        let of = |order: &Value| order["body"]["boot"][part]["sha512"].clone();
        assert_eq!(of(&started), of(&built), "{part}");
    }
    owner.delete(&server).await;
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_pointed_at_anothers_later_gives_its_bytes_to_nobody() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let flavor = admin.flavor(1, 1).await;
    let (victim, _) = member(&world, &admin, "victim").await;
    let (other, _) = member(&world, &admin, "other").await;
    let secret = victim.kernel("private").await;
    let kernel = other.kernel("private").await;
    let image = json!({"name": "mine", "kernel_id": kernel, "disk_format": "raw",
        "container_format": "bare"});
    let image = text(&other.post(IMAGES, image).await.taken(201)["id"]);
    other.put_file(&image, "disk").await.taken(204);
    let server = other.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    other.until(&server, "ACTIVE").await;
    let patch = json!([{"op": "add", "path": "/ramdisk_id", "value": secret}]);
    other.patch_image(&image, patch).await.taken(200);
    stop_and_start(&other, &server).await;
    let started = world.last_order(&server).await;
    assert!(started["body"]["boot"]["kernel"]["sha512"].is_string());
    assert!(started["body"]["boot"]["ramdisk"].is_null(), "{started}");
    // A new one is not made from it at all.
    let refused = other.server("web2", &image, &flavor).await;
    refused.refused(400, &["ramdisk_id", &secret]);
    other.delete(&server).await;
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_deletes_nothing() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let image = admin.image(json!({"name": "i"})).await;
    let flavor = admin.flavor(1, 1).await;
    let (owner, project) = member(&world, &admin, "owner").await;
    let server = owner.server("web", &image, &flavor).await;
    let server = text(&server.taken(202)["server"]["id"]);
    owner.until(&server, "ACTIVE").await;
    let on = format!("projects/{project}");
    let scope = json!({"project": {"id": project}});
    let (reader, _) = user_with(
        &world,
        &admin,
        ("reader", "default"),
        ("reader", &on),
        scope,
    )
    .await;
    let path = format!("/compute/v2.1/servers/{server}");
    reader.get(&path).await.taken(200);
    let deleted = reader.call("DELETE", &path, Value::Null).await;
    deleted.refused(403, &["os_compute_api:servers:delete", "role member"]);
    let image = json!({"name": "mine"});
    reader
        .post(IMAGES, image)
        .await
        .refused(403, &["add_image"]);
    let network = json!({"network": {"name": "mine"}});
    let made = reader.post("/network/v2.0/networks", network).await;
    made.refused(403, &["create_network"]);
    owner.until(&server, "ACTIVE").await;
    owner.delete(&server).await;
    world.in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_of_a_domain_is_none_of_the_cloud() {
    let world = World::new().await;
    let admin = world.login("admin").await;
    let domain = json!({"domain": {"name": "d"}});
    let domain = admin.post("/identity/v3/domains", domain).await;
    let domain = text(&domain.taken(201)["domain"]["id"]);
    let on = format!("domains/{domain}");
    let scope = json!({"domain": {"id": domain}});
    let who = ("keeper", &*domain);
    let (keeper, user) = user_with(&world, &admin, who, ("admin", &on), scope).await;
    let roles = admin.get("/identity/v3/roles?name=admin").await;
    let role = text(&roles.taken(200)["roles"][0]["id"]);
    let system = format!("/identity/v3/system/users/{user}/roles/{role}");
    let granted = keeper.call("PUT", &system, Value::Null).await;
    granted.refused(403, &["create_system_grant_for_user"]);
    let services = admin.get("/compute/v2.1/os-services").await;
    let service = services.taken(200)["services"][0]["id"].clone();
    // By its number: the oldest microversion's.
    let path = format!(
        "/compute/v2.1/os-services/{}",
        service.to_string().trim_matches('"')
    );
    let disabled = json!({"status": "disabled"});
    let answer = keeper.call("PUT", &path, disabled).await;
    answer.refused(403, &["os_compute_api:os-services:update"]);
    let users = keeper.get("/identity/v3/users").await;
    let users = users.taken(200)["users"].as_array().unwrap();
    assert_eq!(users.len(), 1, "{users:?}");
}
