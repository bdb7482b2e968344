#![allow(clippy::unwrap_used)]
use crate::testing::{Client, app};
use serde_json::{Value, json};

const NET: &str = "/network/v2.0/networks";
const SUBNET: &str = "/network/v2.0/subnets";
const PORT: &str = "/network/v2.0/ports";

async fn network(client: &Client, name: &str) -> String {
    let answer = client.post(NET, json!({"network": {"name": name}})).await;
    assert_eq!(answer.status, 201);
    answer.json()["network"]["id"].as_str().unwrap().to_owned()
}

async fn subnet(client: &Client, network: &str, cidr: &str) -> Value {
    let body = json!({"subnet": {"network_id": network, "cidr": cidr, "ip_version": 4}});
    let answer = client.post(SUBNET, body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    answer.json()["subnet"].clone()
}

#[tokio::test]
async fn ports_get_addresses_from_the_pools_until_they_are_used_up() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    let subnet = subnet(&client, &net, "10.0.0.0/29").await;
    assert_eq!(subnet["gateway_ip"], "10.0.0.1");
    assert_eq!(
        subnet["allocation_pools"],
        json!([{"start": "10.0.0.2", "end": "10.0.0.6"}])
    );
    // .2 is the DHCP servers'.
    let mut got = Vec::new();
    loop {
        let answer = client
            .post(PORT, json!({"port": {"network_id": net}}))
            .await;
        if answer.status != 201 {
            assert_eq!(answer.status, 409);
            assert_eq!(
                answer.json()["NeutronError"]["type"],
                "IpAddressGenerationFailure"
            );
            break;
        }
        let port = answer.json()["port"].clone();
        assert_eq!(port["port_security_enabled"], false);
        got.push(
            port["fixed_ips"][0]["ip_address"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(got, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let listed = client
        .get(&format!("{PORT}?fixed_ips=ip_address=10.0.0.4&fields=id"))
        .await
        .json();
    assert_eq!(listed["ports"].as_array().unwrap().len(), 1);
    assert_eq!(listed["ports"][0].as_object().unwrap().len(), 1);
    assert_eq!(client.delete(&format!("{NET}/{net}")).await.status, 409);
    let id = listed["ports"][0]["id"].as_str().unwrap();
    assert_eq!(client.delete(&format!("{PORT}/{id}")).await.status, 204);
    let answer = client
        .post(PORT, json!({"port": {"network_id": net}}))
        .await
        .json();
    assert_eq!(answer["port"]["fixed_ips"][0]["ip_address"], "10.0.0.4");
}

#[tokio::test]
async fn a_bulk_request_is_all_or_nothing() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let answer = client
        .post(NET, json!({"networks": [{"name": "a"}, {"name": "b"}]}))
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["networks"].as_array().unwrap().len(), 2);
    let answer = client
        .post(NET, json!({"networks": [{"name": "c"}, {"name": 5}]}))
        .await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["NeutronError"]["message"]
            .as_str()
            .unwrap()
            .contains("networks[1].name")
    );
    let net = network(&client, "n").await;
    subnet(&client, &net, "10.0.0.0/24").await;
    let ports = json!({"ports": [
        {"network_id": net, "fixed_ips": [{"ip_address": "10.0.0.9"}]},
        {"network_id": net, "fixed_ips": [{"ip_address": "10.0.0.9"}]},
    ]});
    let answer = client.post(PORT, ports).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["NeutronError"]["type"], "IpAddressInUse");
    assert!(
        client.get(PORT).await.json()["ports"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn what_is_not_enforced_is_refused_not_stored() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    for body in [
        json!({"network": {"port_security_enabled": true}}),
        json!({"network": {"provider:network_type": "vxlan", "provider:segmentation_id": 7}}),
        json!({"network": {"dns_domain": "x."}}),
    ] {
        assert_eq!(client.post(NET, body.clone()).await.status, 400, "{body}");
    }
    for extra in [
        json!({"port_security_enabled": true}),
        json!({"allowed_address_pairs": [{"ip_address": "1.2.3.4"}]}),
        json!({"binding:vnic_type": "direct"}),
        json!({"mac_address": "01:00:5e:00:00:01"}),
    ] {
        let mut body = json!({"port": {"network_id": net}});
        for (key, value) in extra.as_object().unwrap() {
            body["port"][key] = value.clone();
        }
        assert_eq!(client.post(PORT, body.clone()).await.status, 400, "{body}");
    }
    for path in [
        "routers",
        "floatingips",
        "extensions/router",
        "qos/policies",
    ] {
        let answer = client.get(&format!("/network/v2.0/{path}")).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test]
async fn another_projects_things_are_not_found_and_shared_ones_not_changed() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let (bob, _) = admin.member("bob").await;
    let net = network(&alice, "n").await;
    let sub = subnet(&alice, &net, "10.0.0.0/24").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let port = alice
        .post(PORT, json!({"port": {"network_id": net}}))
        .await
        .json();
    let port = port["port"]["id"].as_str().unwrap().to_owned();
    for path in [
        format!("{NET}/{net}"),
        format!("{SUBNET}/{sub}"),
        format!("{PORT}/{port}"),
    ] {
        assert_eq!(alice.get(&path).await.status, 200);
        assert_eq!(bob.get(&path).await.status, 404);
        assert_eq!(bob.delete(&path).await.status, 404);
    }
    assert_eq!(
        bob.post(PORT, json!({"port": {"network_id": net}}))
            .await
            .status,
        404
    );
    assert_eq!(
        bob.post(NET, json!({"network": {"shared": true}}))
            .await
            .status,
        403
    );
    let share = json!({"network": {"shared": true}});
    assert_eq!(admin.put(&format!("{NET}/{net}"), share).await.status, 200);
    assert_eq!(
        bob.post(PORT, json!({"port": {"network_id": net}}))
            .await
            .status,
        201
    );
    assert_eq!(bob.delete(&format!("{NET}/{net}")).await.status, 403);
    assert_eq!(bob.get(&format!("{SUBNET}/{sub}")).await.status, 200);
}

#[tokio::test]
async fn one_flat_network_for_a_physical_one() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let body = json!({"network": {
        "provider:network_type": "flat", "provider:physical_network": "physnet1",
    }});
    assert_eq!(admin.post(NET, body.clone()).await.status, 201);
    let answer = admin.post(NET, body).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["NeutronError"]["type"], "FlatNetworkInUse");
}

#[tokio::test]
async fn subnets_do_not_overlap_and_their_fields_agree() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    subnet(&client, &net, "10.0.0.0/24").await;
    for (extra, status) in [
        (json!({"cidr": "10.0.0.128/25"}), 400),
        (json!({"cidr": "10.0.1.0/24", "ip_version": 6}), 400),
        (json!({"cidr": "10.0.1.0/33"}), 400),
        (json!({"cidr": "10.0.1.0/24", "gateway_ip": "x"}), 400),
        (
            json!({"cidr": "10.0.1.0/24", "allocation_pools": [{"start": "10.0.2.1", "end": "10.0.2.9"}]}),
            400,
        ),
        (
            json!({"cidr": "10.0.1.0/24", "allocation_pools": [{"start": "10.0.1.1", "end": "10.0.1.9"}]}),
            409,
        ),
        (
            json!({"cidr": "10.0.1.0/24", "host_routes": [{"destination": "0.0.0.0/0", "nexthop": "10.0.1.1"}]}),
            400,
        ),
        (json!({"cidr": "10.0.1.0/24", "gateway_ip": null}), 201),
        (json!({"cidr": "2001:DB8:0::/64", "ip_version": 6}), 201),
    ] {
        let mut body = json!({"subnet": {"network_id": net}});
        for (key, value) in extra.as_object().unwrap() {
            body["subnet"][key] = value.clone();
        }
        let answer = client.post(SUBNET, body).await;
        assert_eq!(answer.status.as_u16(), status, "{extra}");
        if extra["ip_version"] == 6 && status == 201 {
            assert_eq!(answer.json()["subnet"]["cidr"], "2001:db8::/64");
        }
    }
}

#[tokio::test]
async fn every_project_has_one_default_security_group_and_rules_are_checked() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let groups = "/network/v2.0/security-groups";
    let rules = "/network/v2.0/security-group-rules";
    for _ in 0..2 {
        let all = alice.get(groups).await.json();
        assert_eq!(all["security_groups"].as_array().unwrap().len(), 1);
        assert_eq!(
            all["security_groups"][0]["security_group_rules"]
                .as_array()
                .unwrap()
                .len(),
            4
        );
    }
    let group = alice
        .post(groups, json!({"security_group": {"name": "g"}}))
        .await
        .json();
    let id = group["security_group"]["id"].as_str().unwrap();
    for (rule, status) in [
        (
            json!({"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}),
            201,
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}),
            409,
        ),
        (
            json!({"protocol": "tcp", "port_range_min": 23, "port_range_max": 22}),
            400,
        ),
        (json!({"protocol": "quic"}), 400),
        (json!({"protocol": 17}), 201),
        (
            json!({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}),
            201,
        ),
        (json!({"port_range_min": 8, "port_range_max": 9}), 400),
        (json!({"remote_ip_prefix": "10.0.0.0/8"}), 201),
        (json!({"remote_ip_prefix": "2001:db8::/32"}), 400),
        (
            json!({"remote_ip_prefix": "2001:db8::/32", "ethertype": "IPv6"}),
            201,
        ),
    ] {
        let mut body =
            json!({"security_group_rule": {"security_group_id": id, "direction": "ingress"}});
        for (key, value) in rule.as_object().unwrap() {
            body["security_group_rule"][key] = value.clone();
        }
        let answer = alice.post(rules, body).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{rule}: {:?}",
            answer.json()
        );
    }
    assert_eq!(alice.delete(&format!("{groups}/{id}")).await.status, 204);
    let left = alice
        .get(&format!("{rules}?security_group_id={id}"))
        .await
        .json();
    assert!(left["security_group_rules"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_quota_names_its_limit_and_can_be_raised() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, project) = admin.member("alice").await;
    let quotas = format!("/network/v2.0/quotas/{project}");
    assert_eq!(
        alice
            .put(&quotas, json!({"quota": {"network": 9}}))
            .await
            .status,
        403
    );
    assert_eq!(
        admin
            .put(&quotas, json!({"quota": {"network": 1}}))
            .await
            .status,
        200
    );
    network(&alice, "one").await;
    let answer = alice.post(NET, json!({"network": {}})).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["NeutronError"]["type"], "OverQuota");
    assert_eq!(admin.delete(&quotas).await.status, 204);
    network(&alice, "two").await;
    let details = alice.get(&format!("{quotas}/details.json")).await.json();
    assert_eq!(
        details["quota"]["network"],
        json!({"limit": 100, "used": 2, "reserved": 0})
    );
}
