//! Limits and quotas.

use super::*;

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
