//! A server boots from what it was made from, whatever becomes of the images.

use super::*;
use crate::{boot_sources, instances};
use berth_controller_core::ApiError;
use berth_controller_image::BootSources;
use berth_rpc_types::InstanceId;

const PATCH: (&str, &str) = (
    "content-type",
    "application/openstack-images-v2.1-json-patch",
);

impl Cloud {
    async fn patch_image(&self, who: &Client, id: &str, patch: Value) -> u16 {
        let body = Some(patch.to_string().into_bytes());
        let path = format!("/image/v2/images/{id}");
        who.send("PATCH", &path, body, &[PATCH])
            .await
            .status
            .as_u16()
    }

    /// What a server boots from, as the next order to its host would have it.
    async fn boots_from(&self, id: &str) -> BootSources {
        let id = InstanceId(id.parse().unwrap());
        self.app
            .store
            .tx::<_, ApiError, _>(|tx| {
                Box::pin(async move {
                    let instance = instances::load(tx, id).await?.unwrap();
                    boot_sources::of(tx, &instance, None).await
                })
            })
            .await
            .unwrap()
    }

    async fn forget_sources(&self, id: &str) {
        self.sql("DELETE FROM boot_sources WHERE instance_id = $1", id)
            .await;
    }
}

#[tokio::test]
async fn what_an_image_says_later_is_not_the_servers() {
    let cloud = cloud().await;
    let server = cloud.created("s").await;
    let before = cloud.boots_from(&server).await;
    assert_eq!(before.root.sha512, "d");
    assert_eq!(before.kernel.sha512, "k");
    assert_eq!(before.ramdisk, None);
    // Another kernel, another command line, a ramdisk that may be another project's.
    let patch = json!([
        {"op": "add", "path": "/os_command_line", "value": "init=/bin/evil"},
        {"op": "add", "path": "/ramdisk_id", "value": "77777777-7777-4777-8777-777777777777"},
    ]);
    assert_eq!(cloud.patch_image(&cloud.admin, IMAGE, patch).await, 200);
    assert_eq!(cloud.boots_from(&server).await, before);
}

#[tokio::test]
async fn an_id_of_an_image_is_never_given_again() {
    let cloud = cloud().await;
    let server = cloud.created("s").await;
    let before = cloud.boots_from(&server).await;
    for id in [IMAGE, KERNEL] {
        let gone = cloud.admin.delete(&format!("/image/v2/images/{id}")).await;
        assert_eq!(gone.status, 204);
        // Whoever asks for it: it would be another image under a server that has the id.
        for who in [&cloud.member, &cloud.admin] {
            let again = who.post("/image/v2/images", json!({"id": id})).await;
            assert_eq!(again.status, 409, "{}", again.json());
        }
    }
    assert_eq!(cloud.boots_from(&server).await, before);
    // For a host that has none of it, that is the end: in words.
    let missing = cloud
        .app
        .store
        .tx::<_, ApiError, _>(|tx| {
            let before = before.clone();
            Box::pin(async move { Ok(before.are_there(tx).await.unwrap_err().message) })
        })
        .await
        .unwrap();
    assert!(missing.contains("is gone"), "{missing}");
}

#[tokio::test]
async fn a_server_of_an_earlier_release_boots_from_what_its_project_sees() {
    let cloud = cloud().await;
    let server = cloud.created("s").await;
    let before = cloud.boots_from(&server).await;
    cloud.forget_sources(&server).await;
    assert_eq!(cloud.boots_from(&server).await, before);
    // The kernel becomes another project's own: it was not written down in time.
    cloud.forget_sources(&server).await;
    let patch = json!([{"op": "replace", "path": "/visibility", "value": "private"}]);
    assert_eq!(cloud.patch_image(&cloud.admin, KERNEL, patch).await, 200);
    let id = InstanceId(server.parse().unwrap());
    let refused = cloud
        .app
        .store
        .tx::<_, ApiError, _>(|tx| {
            Box::pin(async move {
                let instance = instances::load(tx, id).await?.unwrap();
                Ok(boot_sources::of(tx, &instance, None)
                    .await
                    .unwrap_err()
                    .message)
            })
        })
        .await
        .unwrap();
    assert!(refused.contains("kernel_id"), "{refused}");
}

#[tokio::test]
async fn nothing_of_a_server_that_is_gone_tells_what_its_user_gave_it() {
    let cloud = cloud().await;
    let mut body = cloud.server("s");
    body["server"]["user_data"] = json!("c2VjcmV0"); // "secret"
    let made = cloud.create(body).await.json();
    let server = text(&made["server"]["id"]);
    let id = InstanceId(server.parse().unwrap());
    let told = "SELECT body FROM instances WHERE id = $1";
    let read = || async {
        let text = server.clone();
        cloud
            .app
            .store
            .tx::<_, StoreError, _>(|tx| {
                let text = text.clone();
                Box::pin(async move { tx.query_opt::<(String,)>(told, params![text]).await })
            })
            .await
            .unwrap()
            .unwrap()
            .0
    };
    assert!(read().await.contains("c2VjcmV0"));
    cloud
        .app
        .store
        .tx::<_, StoreError, _>(|tx| Box::pin(boot_sources::forget(tx, id)))
        .await
        .unwrap();
    let left = read().await;
    assert!(!left.contains("c2VjcmV0"), "{left}");
}
