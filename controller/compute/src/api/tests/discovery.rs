//! Versions.

use super::*;

#[tokio::test]
async fn every_answer_says_its_microversion() {
    let cloud = cloud().await;
    for (path, version, status, said) in [
        (SERVERS, "2.26", 200, "2.26"),
        (SERVERS, "latest", 200, "2.96"),
        ("/compute/v2.1/servers/none", "2.9", 404, "2.9"),
        (SERVERS, "2.97", 406, "2.1"),
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
    assert_eq!(versions[1]["version"], "2.96");
    for version in versions {
        let href = text(&version["links"][0]["href"]);
        let path = href.strip_prefix("http://controller.test").unwrap();
        let one = anybody.get(path).await;
        assert_eq!(one.status, 200, "{path}");
        assert_eq!(one.json()["version"]["id"], version["id"]);
    }
}
