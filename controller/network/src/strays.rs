//! The ports of guests that no server has (PROTOCOL.md, rule 5): their MACs and addresses are held, so
//! that no other server is given them, until an operator adopts the guest, or its host no longer has it.
//!
//! A port that the database has already is left as it is: its addresses are held by that.

use crate::{addresses, bindings, ports, subnets};
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx};
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, InstanceId, VmmId};

/// Who owns a port that is held.
const OWNER: &str = "berth:stray";

/// Holds what can be held, and binds it where the guest is, so that its host goes on serving it. An address that another port has by now stays with that, and is named in the
/// log: two guests have it. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn hold(
    tx: &mut Tx,
    now: i64,
    vmm_id: VmmId,
    host_id: HostId,
    spec: &VmmSpec,
) -> Result<(), StoreError> {
    for (index, port) in spec.ports.iter().enumerate() {
        let network = port.network_id.to_string();
        let made = tx
            .execute(
                "INSERT INTO ports (id, network_id, project_id, name, description, admin_state_up, mac, \
                 device_id, device_owner, status, made_by_compute, device_index, revision, created_at, \
                 updated_at, vmm_id, host_id) SELECT $1, id, $2, '', 'held for a guest that no server has', \
                 1, $3, $4, $5, 'DOWN', 0, $6, 1, $7, $7, $9, $10 FROM networks WHERE id = $8 \
                 ON CONFLICT DO NOTHING",
                params![
                    port.id,
                    &spec.project_id,
                    &port.mac,
                    spec.instance_id.to_string(),
                    OWNER,
                    i64::try_from(index).unwrap_or(i64::MAX),
                    now,
                    &network,
                    vmm_id,
                    host_id
                ],
            )
            .await?;
        if made == 0 {
            tracing::warn!(port_id = %port.id, mac = port.mac, network,
                "a stray's port is not held: its network is gone, or its id or MAC is another's");
            continue;
        }
        let all = subnets::list(tx, &network).await?;
        for address in port.addresses.iter().map(|spec| spec.address) {
            let held = match all.iter().find(|subnet| subnet.cidr.contains(&address)) {
                Some(subnet) => {
                    let holder = port.id.to_string();
                    addresses::hold(tx, &subnet.id, subnet.cidr, address, &holder).await?
                }
                None => false,
            };
            if !held {
                tracing::warn!(port_id = %port.id, %address, "a stray's address is another port's, or no subnet's");
            }
        }
    }
    bindings::hosts_changed(tx, "device_id", &spec.instance_id.to_string()).await
}

/// Lets go of what is held for a guest.
///
/// # Errors
/// [`StoreError`]
pub async fn let_go(tx: &mut Tx, instance_id: InstanceId) -> Result<(), StoreError> {
    bindings::hosts_changed(tx, "device_id", &instance_id.to_string()).await?;
    let held: Vec<(String,)> = tx
        .query(
            "SELECT id FROM ports WHERE device_owner = $1 AND device_id = $2 AND instance_id IS NULL",
            params![OWNER, instance_id.to_string()],
        )
        .await?;
    for (id,) in held {
        ports::delete(tx, &id).await?;
    }
    Ok(())
}

/// Gives what is held for a guest to its server, and binds it where the guest is.
///
/// # Errors
/// [`StoreError`]
pub async fn adopt(
    tx: &mut Tx,
    instance_id: InstanceId,
    vmm_id: VmmId,
    host_id: HostId,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE ports SET instance_id = $1, device_owner = 'compute:nova', made_by_compute = 1, \
         description = '', status = 'ACTIVE', revision = revision + 1 \
         WHERE device_owner = $2 AND device_id = $1 AND instance_id IS NULL",
        params![instance_id.to_string(), OWNER],
    )
    .await?;
    // Bound already; those that the database had before are not.
    bindings::bind(tx, instance_id, vmm_id, host_id).await
}
