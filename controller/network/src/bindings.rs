//! Bindings: for which VMMs, on which hosts, a port is made ready.
//!
//! A port is bound for every VMM of its server that is there, and one of its bindings is active:
//! traffic goes there. The active one stands in the port's own row, the others in
//! `port_bindings`. The first binding is active from the start; a second one (a migration's
//! target) is made beside it, so that its host can prepare, and [`activate`] changes the two in
//! one transaction. A binding ends with its VMM ([`unbind`]). Every change raises the network
//! revision of each host that it touches, by which the agent knows to fetch its document again.

use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::{HostId, InstanceId, VmmId};

/// Binds a server's ports for a VMM on a host: actively, unless they are bound for another
/// already. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn bind(
    tx: &mut Tx,
    instance_id: InstanceId,
    vmm_id: VmmId,
    host_id: HostId,
) -> Result<(), StoreError> {
    // First, as ports that the second statement binds are not bound for another.
    tx.execute(
        "INSERT INTO port_bindings (port_id, vmm_id, host_id) \
         SELECT id, CAST($1 AS TEXT), CAST($2 AS TEXT) FROM ports \
         WHERE instance_id = $3 AND vmm_id <> $1 ON CONFLICT DO NOTHING",
        params![vmm_id, host_id, instance_id],
    )
    .await?;
    tx.execute(
        "UPDATE ports SET vmm_id = $1, host_id = $2, revision = revision + 1 \
         WHERE instance_id = $3 AND vmm_id IS NULL",
        params![vmm_id, host_id, instance_id],
    )
    .await?;
    hosts_changed(tx, "instance_id", &instance_id.to_string()).await
}

/// Makes the bindings for this VMM the active ones; those that were stay beside them, until
/// their VMM is gone. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn activate(
    tx: &mut Tx,
    instance_id: InstanceId,
    vmm_id: VmmId,
    host_id: HostId,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO port_bindings (port_id, vmm_id, host_id) \
         SELECT id, vmm_id, host_id FROM ports WHERE instance_id = $1 AND vmm_id <> $2 \
         ON CONFLICT DO NOTHING",
        params![instance_id, vmm_id],
    )
    .await?;
    tx.execute(
        "UPDATE ports SET vmm_id = $1, host_id = $2, revision = revision + 1 \
         WHERE instance_id = $3 AND (vmm_id IS NULL OR vmm_id <> $1)",
        params![vmm_id, host_id, instance_id],
    )
    .await?;
    tx.execute(
        "DELETE FROM port_bindings WHERE vmm_id = $1",
        params![vmm_id],
    )
    .await?;
    hosts_changed(tx, "instance_id", &instance_id.to_string()).await
}

/// Ends every binding for a VMM, of which nothing is left on its host. A port whose active
/// binding it was has none: another becomes active by [`activate`] only. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn unbind(tx: &mut Tx, vmm_id: VmmId) -> Result<(), StoreError> {
    let sql = "SELECT host_id FROM ports WHERE vmm_id = $1 AND host_id IS NOT NULL \
               UNION SELECT host_id FROM port_bindings WHERE vmm_id = $1";
    let hosts: Vec<(HostId,)> = tx.query(sql, params![vmm_id]).await?;
    raise(tx, &hosts).await?;
    tx.execute(
        "DELETE FROM port_bindings WHERE vmm_id = $1",
        params![vmm_id],
    )
    .await?;
    tx.execute(
        "UPDATE ports SET vmm_id = NULL, host_id = NULL, status = 'DOWN', \
         revision = revision + 1 WHERE vmm_id = $1",
        params![vmm_id],
    )
    .await?;
    Ok(())
}

/// Ends the bindings beside the active ones, of a server that gives up its ports.
///
/// # Errors
/// [`StoreError`]
pub(super) async fn forget(tx: &mut Tx, instance_id: InstanceId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM port_bindings \
         WHERE port_id IN (SELECT id FROM ports WHERE instance_id = $1)",
        params![instance_id],
    )
    .await?;
    Ok(())
}

/// Raises the network revision of the hosts on which ports with this column's value are bound,
/// actively or not.
pub(super) async fn hosts_changed(
    tx: &mut Tx,
    column: &'static str,
    value: &str,
) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT host_id FROM ports WHERE {column} = $1 AND host_id IS NOT NULL \
         UNION SELECT b.host_id FROM port_bindings b JOIN ports p ON p.id = b.port_id \
         WHERE p.{column} = $1"
    );
    let hosts: Vec<(HostId,)> = tx.query(&sql, params![value]).await?;
    raise(tx, &hosts).await
}

/// Raises the network revision of these hosts, each by its own row: a statement that looked for them among
/// all hosts would be in conflict with whatever is written of any.
async fn raise(tx: &mut Tx, hosts: &[(HostId,)]) -> Result<(), StoreError> {
    for (host_id,) in hosts {
        let sql = "UPDATE hosts SET network_revision = network_revision + 1 WHERE id = $1";
        tx.execute(sql, params![*host_id]).await?;
    }
    Ok(())
}

/// Tells the hosts of a network that it, or its subnets, changed.
///
/// # Errors
/// [`StoreError`]
pub async fn changed(tx: &mut Tx, network_id: &str) -> Result<(), StoreError> {
    hosts_changed(tx, "network_id", network_id).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quotas::{PORT, Room};
    use crate::testing::{App, Client, app};
    use crate::{RequestedNetwork, allocate, host_document, release};
    use berth_rpc_types::link::NetworkDocument;
    use serde_json::json;

    const SERVER: InstanceId = InstanceId::from_u128(1);
    const OLD: VmmId = VmmId::from_u128(11);
    const NEW: VmmId = VmmId::from_u128(12);
    const HERE: HostId = HostId::from_u128(21);
    const THERE: HostId = HostId::from_u128(22);

    /// A server with one port, and two hosts.
    async fn served() -> App {
        let app = app().await;
        let client = Client::admin(&app).await;
        let network = json!({"network": {"name": "n"}});
        let network = client.post("/network/v2.0/networks", network).await.json();
        let network = network["network"]["id"].as_str().unwrap().to_owned();
        let subnet =
            json!({"subnet": {"network_id": network, "cidr": "10.0.0.0/24", "ip_version": 4}});
        let answer = client.post("/network/v2.0/subnets", subnet).await;
        assert_eq!(answer.status, 201);
        let shown = client
            .get(&format!("/network/v2.0/networks/{network}"))
            .await;
        let project = shown.json()["network"]["project_id"].clone();
        let project = project.as_str().unwrap().to_owned();
        let env = app.env();
        app.store
            .tx(|tx| {
                let (env, network, project) = (env.clone(), network.clone(), project.clone());
                Box::pin(async move {
                    for (number, host) in [(1, HERE), (2, THERE)] {
                        tx.execute(
                            "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, \
                             epoch, availability_zone, enabled, forced_down, last_seen_at, \
                             agent_version, capacity, generation, network_revision, created_at, \
                             updated_at) VALUES ($1, $2, $1, '10.0.0.9', '', 1, 'nova', 1, 0, 0, \
                             '0', '{}', 1, 1, 0, 0)",
                            params![host, number],
                        )
                        .await?;
                    }
                    let wanted = RequestedNetwork {
                        network_id: Some(network),
                        ..RequestedNetwork::default()
                    };
                    let mut room = Room::of(tx, &project, PORT).await?;
                    allocate(tx, &env, SERVER, &project, &[wanted], &mut room).await
                })
            })
            .await
            .unwrap();
        app
    }

    enum Do {
        Bind(VmmId, HostId),
        Activate(VmmId, HostId),
        Unbind(VmmId),
        Release,
    }

    /// Each is done twice, as a transaction that is repeated after a crash would.
    async fn act(app: &App, what: Do) {
        for _ in 0..2 {
            app.store
                .tx::<_, StoreError, _>(|tx| match what {
                    Do::Bind(vmm, host) => Box::pin(bind(tx, SERVER, vmm, host)),
                    Do::Activate(vmm, host) => Box::pin(activate(tx, SERVER, vmm, host)),
                    Do::Unbind(vmm) => Box::pin(unbind(tx, vmm)),
                    Do::Release => Box::pin(release(tx, SERVER)),
                })
                .await
                .unwrap();
        }
    }

    async fn document(app: &App, host: HostId) -> NetworkDocument {
        app.store
            .tx::<_, StoreError, _>(|tx| Box::pin(host_document(tx, host)))
            .await
            .unwrap()
    }

    /// For which VMMs the port is bound on a host, and whether actively.
    async fn bound(app: &App, host: HostId) -> Vec<(VmmId, bool)> {
        let networks = document(app, host).await.networks;
        let ports = networks.iter().flat_map(|n| &n.ports);
        ports.map(|p| (p.vmm_id, p.active)).collect()
    }

    #[tokio::test]
    async fn a_port_is_bound_for_two_vmms_and_active_for_one() {
        let app = served().await;
        act(&app, Do::Bind(OLD, HERE)).await;
        assert_eq!(bound(&app, HERE).await, [(OLD, true)]);
        assert_eq!(bound(&app, THERE).await, []);

        act(&app, Do::Bind(NEW, THERE)).await;
        assert_eq!(bound(&app, HERE).await, [(OLD, true)]);
        assert_eq!(bound(&app, THERE).await, [(NEW, false)]);

        let before = (
            document(&app, HERE).await.revision,
            document(&app, THERE).await.revision,
        );
        act(&app, Do::Activate(NEW, THERE)).await;
        assert_eq!(bound(&app, HERE).await, [(OLD, false)]);
        assert_eq!(bound(&app, THERE).await, [(NEW, true)]);
        // Both are told.
        assert!(document(&app, HERE).await.revision > before.0);
        assert!(document(&app, THERE).await.revision > before.1);

        act(&app, Do::Unbind(OLD)).await;
        assert_eq!(bound(&app, HERE).await, []);
        assert_eq!(bound(&app, THERE).await, [(NEW, true)]);
    }

    #[tokio::test]
    async fn a_target_that_came_to_nothing_leaves_the_active_binding_alone() {
        let app = served().await;
        act(&app, Do::Bind(OLD, HERE)).await;
        act(&app, Do::Bind(NEW, THERE)).await;
        act(&app, Do::Unbind(NEW)).await;
        assert_eq!(bound(&app, HERE).await, [(OLD, true)]);
        assert_eq!(bound(&app, THERE).await, []);
    }

    #[tokio::test]
    async fn both_may_be_on_one_host() {
        let app = served().await;
        act(&app, Do::Bind(OLD, HERE)).await;
        act(&app, Do::Bind(NEW, HERE)).await;
        assert_eq!(bound(&app, HERE).await, [(OLD, true), (NEW, false)]);
        act(&app, Do::Activate(NEW, HERE)).await;
        assert_eq!(bound(&app, HERE).await, [(NEW, true), (OLD, false)]);
        act(&app, Do::Unbind(OLD)).await;
        assert_eq!(bound(&app, HERE).await, [(NEW, true)]);
    }

    #[tokio::test]
    async fn a_server_that_gives_up_its_ports_is_bound_nowhere() {
        let app = served().await;
        act(&app, Do::Bind(OLD, HERE)).await;
        act(&app, Do::Bind(NEW, THERE)).await;
        let before = document(&app, THERE).await.revision;
        act(&app, Do::Release).await;
        assert_eq!(bound(&app, HERE).await, []);
        assert_eq!(bound(&app, THERE).await, []);
        assert!(document(&app, THERE).await.revision > before);
    }
}
