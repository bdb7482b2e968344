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

/// The path of a link of a list, as a client follows it.
fn link(list: &Value, key: &str, rel: &str) -> Option<String> {
    let links = list[format!("{key}_links")].as_array()?;
    let href = links.iter().find(|l| l["rel"] == rel)?["href"].as_str()?;
    Some(href.strip_prefix("http://controller.test")?.to_owned())
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let all = list[key].as_array().unwrap().iter();
    all.map(|i| i["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_link_to_the_next_page_is_the_same_query_with_another_marker() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let (mine, other) = (network(&client, "n").await, network(&client, "o").await);
    for (net, name) in [(&mine, "b"), (&other, "x"), (&mine, "c"), (&mine, "a")] {
        let body = json!({"port": {"network_id": net, "name": name}});
        assert_eq!(client.post(PORT, body).await.status, 201);
    }
    let query = format!("{PORT}?network_id={mine}&fields=id&fields=name&sort_key=name&limit=2");
    let first = client.get(&query).await.json();
    assert_eq!(names(&first, "ports"), ["a", "b"]);
    assert_eq!(link(&first, "ports", "previous"), None);
    let next = link(&first, "ports", "next").unwrap();
    let second = client.get(&next).await.json();
    assert_eq!(names(&second, "ports"), ["c"]);
    assert_eq!(second["ports"][0].as_object().unwrap().len(), 2);
    assert_eq!(link(&second, "ports", "next"), None);
    // And back, by the link and from the end.
    let back = link(&second, "ports", "previous").unwrap();
    assert_eq!(names(&client.get(&back).await.json(), "ports"), ["a", "b"]);
    let last = client
        .get(&format!("{query}&page_reverse=True"))
        .await
        .json();
    assert_eq!(names(&last, "ports"), ["b", "c"]);
}

#[tokio::test]
async fn a_list_that_is_deleted_page_by_page_is_deleted_whole() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    subnet(&client, &net, "10.0.0.0/24").await;
    for path in [PORT, SUBNET, NET] {
        let key = path.rsplit('/').next().unwrap();
        for n in 0..3 {
            let body = match key {
                "ports" => json!({"port": {"network_id": net, "name": n.to_string()}}),
                "subnets" => {
                    let cidr = format!("10.1.{n}.0/24");
                    json!({"subnet": {"network_id": net, "cidr": cidr, "ip_version": 4}})
                }
                _ => json!({"network": {"name": n.to_string()}}),
            };
            assert_eq!(client.post(path, body).await.status, 201);
        }
        let mut query = Some(format!("{path}?limit=1"));
        let mut deleted = 0;
        while let Some(page) = query {
            let list = client.get(&page).await;
            assert_eq!(list.status, 200, "{page}: {}", list.json());
            let list = list.json();
            let id = list[key][0]["id"].as_str().unwrap();
            assert_eq!(client.delete(&format!("{path}/{id}")).await.status, 204);
            deleted += 1;
            query = link(&list, key, "next");
        }
        assert!(deleted >= 3, "{key}");
        let left = client.get(path).await.json();
        assert_eq!(left[key], json!([]), "{key}");
    }
}

#[tokio::test]
async fn others_subnets_are_neither_listed_nor_filtered_by() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let (bob, _) = admin.member("bob").await;
    let (hers, his) = (network(&alice, "a").await, network(&bob, "b").await);
    let own = subnet(&alice, &hers, "10.0.0.0/24").await;
    let others = subnet(&bob, &his, "10.0.0.0/24").await;
    let shared = network(&admin, "s").await;
    let change = json!({"network": {"shared": true}});
    admin.put(&format!("{NET}/{shared}"), change).await;
    subnet(&admin, &shared, "10.0.0.0/24").await;
    let list = alice.get(SUBNET).await.json();
    assert_eq!(list["subnets"].as_array().unwrap().len(), 2);
    let marker = |subnet: &Value| format!("{SUBNET}?marker={}", subnet["id"].as_str().unwrap());
    assert_eq!(alice.get(&marker(&own)).await.status, 200);
    assert_eq!(alice.get(&marker(&others)).await.status, 400);
    let port = json!({"port": {"network_id": his}});
    let port = bob.post(PORT, port).await.json();
    let address = port["port"]["fixed_ips"][0]["ip_address"].as_str().unwrap();
    let by_address = format!("{PORT}?fixed_ips=ip_address={address}");
    let found = bob.get(&by_address).await.json();
    assert_eq!(found["ports"].as_array().unwrap().len(), 1);
    assert_eq!(alice.get(&by_address).await.json()["ports"], json!([]));
    // Where it is bound is the administrator's to know.
    let by_host = format!("{PORT}?binding:host_id=");
    assert_eq!(bob.get(&by_host).await.json()["ports"], json!([]));
    let by_host = admin.get(&by_host).await.json();
    assert_eq!(by_host["ports"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn no_pools_asked_for_are_the_usual_ones_and_none_set_are_none() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    let body = json!({"subnet": {"network_id": net, "cidr": "10.0.0.0/24", "ip_version": 4,
                                 "allocation_pools": []}});
    let made = client.post(SUBNET, body).await.json();
    let usual = json!([{"start": "10.0.0.2", "end": "10.0.0.254"}]);
    assert_eq!(made["subnet"]["allocation_pools"], usual);
    let path = format!("{SUBNET}/{}", made["subnet"]["id"].as_str().unwrap());
    let none = json!({"subnet": {"allocation_pools": []}});
    let set = client.put(&path, none).await;
    assert_eq!(set.status, 200, "{}", set.json());
    assert_eq!(set.json()["subnet"]["allocation_pools"], json!([]));
    let port = json!({"port": {"network_id": net}});
    assert_eq!(client.post(PORT, port).await.status, 409);
}

#[tokio::test]
async fn a_subnet_is_one_that_hosts_can_be_in_or_is_refused_with_why() {
    let app = app().await;
    let client = Client::admin(&app).await;
    let net = network(&client, "n").await;
    let make = async |cidr: &str, more: Value| {
        let mut body = json!({"network_id": net, "cidr": cidr});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        client.post(SUBNET, json!({"subnet": body})).await
    };
    for (cidr, why) in [
        ("0.1.0.0/16", "this network"),
        ("127.1.0.0/16", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/8", "multicast"),
        ("239.0.0.0/24", "multicast"),
        ("240.0.0.0/24", "reserved"),
        // It holds two of them.
        ("192.0.0.0/2", "multicast"),
        ("::/64", "unspecified"),
        ("fe80::/64", "link-local"),
        ("ff00::/8", "multicast"),
        ("10.0.0.0/31", "enable_dhcp"),
        ("10.0.0.0/32", "enable_dhcp"),
        ("2001:db8::/127", "enable_dhcp"),
    ] {
        let answer = make(cidr, json!({})).await;
        assert_eq!(answer.status, 400, "{cidr}");
        assert!(answer.text().contains(why), "{cidr}: {}", answer.text());
    }
    let answer = make("10.0.0.0/32", json!({"enable_dhcp": false})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("gateway_ip null"));
    // What is taken has addresses for ports.
    for (cidr, more, address) in [
        ("10.0.1.0/31", json!({"enable_dhcp": false}), "10.0.1.1"),
        (
            "10.0.1.2/32",
            json!({"enable_dhcp": false, "gateway_ip": null}),
            "10.0.1.2",
        ),
        ("10.0.1.4/30", json!({"gateway_ip": null}), "10.0.1.6"),
    ] {
        let made = make(cidr, more).await;
        assert_eq!(made.status, 201, "{cidr}: {}", made.text());
        let fixed = json!([{"subnet_id": made.json()["subnet"]["id"]}]);
        let port = json!({"port": {"network_id": net, "fixed_ips": fixed}});
        let port = client.post(PORT, port).await.json();
        assert_eq!(port["port"]["fixed_ips"][0]["ip_address"], address);
    }
}

#[tokio::test]
async fn what_has_tags_is_found_by_them_and_takes_them_along() {
    let app = app().await;
    let admin = Client::admin(&app).await;
    let (alice, _) = admin.member("alice").await;
    let (bob, _) = admin.member("bob").await;
    let net = network(&alice, "n").await;
    let other = network(&alice, "o").await;
    let own = subnet(&alice, &net, "10.0.0.0/24").await;
    let port = json!({"port": {"network_id": net}});
    let port = alice.post(PORT, port).await.json();
    let group = json!({"security_group": {"name": "g"}});
    let group_path = "/network/v2.0/security-groups";
    let group = alice.post(group_path, group).await.json();
    for (path, key, id) in [
        (NET, "networks", &json!(net)),
        (SUBNET, "subnets", &own["id"]),
        (PORT, "ports", &port["port"]["id"]),
        (
            group_path,
            "security_groups",
            &group["security_group"]["id"],
        ),
    ] {
        let one = format!("{path}/{}", id.as_str().unwrap());
        let all = format!("{one}/tags");
        let put = alice
            .put(&all, json!({"tags": ["red", "blue", "red"]}))
            .await;
        assert_eq!(put.json()["tags"], json!(["blue", "red"]), "{path}");
        assert_eq!(
            alice
                .send("PUT", &format!("{all}/big"), None, &[])
                .await
                .status,
            201
        );
        assert_eq!(alice.get(&format!("{all}/big")).await.status, 204);
        assert_eq!(alice.get(&format!("{all}/small")).await.status, 404);
        assert_eq!(alice.delete(&format!("{all}/small")).await.status, 404);
        assert_eq!(alice.put(&all, json!({"tags": ["a,b"]})).await.status, 400);
        let tags = json!(["big", "blue", "red"]);
        let single = &key[..key.len() - 1];
        assert_eq!(alice.get(&one).await.json()[single]["tags"], tags);
        let found = async |query: &str| {
            let list = alice.get(&format!("{path}?{query}")).await.json();
            let all = list[key].as_array().unwrap().clone();
            all.iter()
                .any(|item| item["id"] == *id && item["tags"] == tags)
        };
        for (query, there) in [
            ("tags=red,blue", true),
            ("tags=red,green", false),
            ("tags-any=green,red", true),
            ("tags-any=green", false),
            ("not-tags=red,green", true),
            ("not-tags=red,blue", false),
            ("not-tags-any=green", true),
            ("not-tags-any=green,red", false),
        ] {
            assert_eq!(found(query).await, there, "{path}?{query}");
        }
        // Nobody else's.
        assert_eq!(bob.get(&all).await.status, 404);
        assert_eq!(bob.delete(&all).await.status, 404);
        assert_eq!(alice.delete(&format!("{all}/big")).await.status, 204);
    }
    let shared = json!({"network": {"shared": true}});
    admin.put(&format!("{NET}/{other}"), shared).await;
    let foreign = format!("{NET}/{other}/tags/x");
    assert_eq!(bob.send("PUT", &foreign, None, &[]).await.status, 403);
    // What goes takes its tags along.
    let port = port["port"]["id"].as_str().unwrap();
    for path in [
        format!("{PORT}/{port}"),
        format!("{NET}/{net}"),
        format!(
            "{group_path}/{}",
            group["security_group"]["id"].as_str().unwrap()
        ),
    ] {
        assert_eq!(alice.delete(&path).await.status, 204, "{path}");
    }
    let left = app
        .store
        .tx::<_, berth_controller_core::store::StoreError, _>(|tx| {
            Box::pin(tx.query::<(String,)>("SELECT tag FROM network_tags", &[]))
        });
    assert_eq!(left.await.unwrap(), []);
}
