//! IPAM: which address is whose.
//!
//! An address is stored as its position in the subnet, a 64-bit distance from the first
//! address, so that the next that is free is found by index. The primary key
//! (subnet, position) makes a double allocation impossible whatever runs beside it.

use super::errors::{conflict, invalid};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, params};
use ipnet::IpNet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

/// The holder of the address that DHCP servers take.
pub const DHCP: &str = "dhcp";

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A distance from a subnet's first address as it is stored: order is kept, and all 64 bits fit.
fn stored(distance: u128) -> Option<i64> {
    let distance = i128::from(u64::try_from(distance).ok()?);
    i64::try_from(distance + i128::from(i64::MIN)).ok()
}

/// Where an address is in a subnet; `None` if it is outside, or farther than 64 bits in.
pub fn position(cidr: IpNet, address: IpAddr) -> Option<i64> {
    if !cidr.contains(&address) {
        return None;
    }
    stored(number(address) - number(cidr.network()))
}

/// The address at a position; `None` if it is outside the subnet.
pub fn at(cidr: IpNet, position: i64) -> Option<IpAddr> {
    let distance = u128::try_from(i128::from(position) - i128::from(i64::MIN)).ok()?;
    let value = number(cidr.network()).checked_add(distance)?;
    let address = match cidr {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(value).ok()?.into()),
        IpNet::V6(_) => IpAddr::V6(value.into()),
    };
    cidr.contains(&address).then_some(address)
}

/// The last position of a subnet that can be handed out: not IPv4's broadcast address.
pub fn last(cidr: IpNet) -> i64 {
    let size = number(cidr.broadcast()) - number(cidr.network());
    let usable = match cidr {
        IpNet::V4(v4) if v4.prefix_len() < 31 => size - 1,
        _ => size,
    };
    stored(usable).unwrap_or(i64::MAX)
}

/// The first: not the network's own address, where there is one.
pub fn first(cidr: IpNet) -> i64 {
    i64::MIN + i64::from(cidr.prefix_len() + 1 < cidr.max_prefix_len())
}

/// Takes a free address of a subnet's pools: the one behind the highest that is taken while there is one, then
/// any. What was given back is so the last to be given again, and none of this looks at all that is taken but
/// where hardly any is free.
///
/// # Errors
/// 409 `IpAddressGenerationFailure` if none is free.
pub async fn take_any(
    tx: &mut Tx,
    subnet_id: &str,
    cidr: IpNet,
    holder: &str,
) -> Result<IpAddr, ApiError> {
    let taken = match take_next(tx, subnet_id, holder).await? {
        Some(position) => Some(position),
        None => take_given_back(tx, subnet_id, holder).await?,
    };
    let Some(position) = taken else {
        return Err(conflict(
            "IpAddressGenerationFailure",
            format!(
                "No more IP addresses available on subnet {subnet_id}: its allocation pools are used up."
            ),
        ));
    };
    at(cidr, position).ok_or_else(|| {
        ApiError::from(StoreError::Malformed {
            table: "address_allocations".into(),
            column: "position".into(),
            reason: format!("{position} is outside {cidr}"),
        })
    })
}

/// Takes the one behind the highest that is taken of the first pool that has one.
async fn take_next(tx: &mut Tx, subnet_id: &str, holder: &str) -> Result<Option<i64>, StoreError> {
    // ON CONFLICT, because in PostgreSQL one with a row that came after the snapshot is then a
    // serialisation failure, which runs the transaction again, and no violated key.
    let sql = "INSERT INTO address_allocations (subnet_id, position, holder) \
        SELECT CAST($1 AS TEXT), \
            MIN(CASE WHEN c.highest IS NULL THEN c.first_position ELSE c.highest + 1 END), \
            CAST($2 AS TEXT) \
        FROM (SELECT p.first_position, p.last_position, \
                (SELECT MAX(a.position) FROM address_allocations a WHERE a.subnet_id = $1 \
                    AND a.position >= p.first_position AND a.position <= p.last_position) AS highest \
            FROM subnet_pools p WHERE p.subnet_id = $1) c \
        WHERE c.highest IS NULL OR c.highest < c.last_position \
        HAVING COUNT(*) > 0 \
        ON CONFLICT DO NOTHING RETURNING position";
    let row: Option<(i64,)> = tx.query_opt(sql, params![subnet_id, holder]).await?;
    Ok(row.map(|(position,)| position))
}

/// Takes the first free one from some place on. Where, the holder's name decides: holders look in places of
/// their own, and not all of them where the last one found nothing.
async fn take_given_back(
    tx: &mut Tx,
    subnet_id: &str,
    holder: &str,
) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT first_position, last_position FROM subnet_pools WHERE subnet_id = $1 \
               ORDER BY first_position";
    let pools: Vec<(i64, i64)> = tx.query(sql, params![subnet_id]).await?;
    for (from, last) in from_some_place(&pools, place_of(holder)) {
        if put(tx, subnet_id, from, holder).await? {
            return Ok(Some(from));
        }
        let sql = "SELECT a.position + 1 FROM address_allocations a \
            WHERE a.subnet_id = $1 AND a.position >= $2 AND a.position < $3 AND NOT EXISTS \
                (SELECT 1 FROM address_allocations x \
                 WHERE x.subnet_id = $1 AND x.position = a.position + 1) \
            ORDER BY a.position LIMIT 1";
        let gap: Option<(i64,)> = tx.query_opt(sql, params![subnet_id, from, last]).await?;
        if let Some((position,)) = gap
            && put(tx, subnet_id, position, holder).await?
        {
            return Ok(Some(position));
        }
    }
    Ok(None)
}

/// The place where a holder begins to look.
fn place_of(holder: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    holder.hash(&mut hasher);
    hasher.finish()
}

/// Pools as ranges, both ends in them, the whole of them once, beginning at some place in one of them.
fn from_some_place(pools: &[(i64, i64)], place: u64) -> Vec<(i64, i64)> {
    let Some(chosen) = usize::try_from(place % (pools.len().max(1) as u64)).ok() else {
        return pools.to_vec();
    };
    let (before, from) = pools.split_at(chosen.min(pools.len()));
    let Some(((first, last), after)) = from.split_first() else {
        return pools.to_vec();
    };
    let size = i128::from(*last) - i128::from(*first) + 1;
    let start = i128::from(*first) + i128::from(place).rem_euclid(size.max(1));
    let start = i64::try_from(start).unwrap_or(*first);
    let mut ranges = vec![(start, *last)];
    ranges.extend(after);
    ranges.extend(before);
    if start > *first {
        ranges.push((*first, start - 1));
    }
    ranges
}

/// Takes a position if it is free: whether.
async fn put(
    tx: &mut Tx,
    subnet_id: &str,
    position: i64,
    holder: &str,
) -> Result<bool, StoreError> {
    let taken = tx
        .execute(
            "INSERT INTO address_allocations (subnet_id, position, holder) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
            params![subnet_id, position, holder],
        )
        .await?;
    Ok(taken == 1)
}

/// Takes one given address if it is free and one that can be handed out: whether.
///
/// # Errors
/// The store's.
pub async fn hold(
    tx: &mut Tx,
    subnet_id: &str,
    cidr: IpNet,
    address: IpAddr,
    holder: &str,
) -> Result<bool, StoreError> {
    let Some(position) = given(cidr, address) else {
        return Ok(false);
    };
    put(tx, subnet_id, position, holder).await
}

/// The place of an address that can be handed out.
fn given(cidr: IpNet, address: IpAddr) -> Option<i64> {
    position(cidr, address).filter(|p| (first(cidr)..=last(cidr)).contains(p))
}

/// Takes one given address.
///
/// # Errors
/// 400 if it is not one of the subnet's, 409 `IpAddressInUse` if it is taken.
pub async fn take(
    tx: &mut Tx,
    subnet_id: &str,
    cidr: IpNet,
    address: IpAddr,
    holder: &str,
) -> Result<(), ApiError> {
    if given(cidr, address).is_none() {
        return Err(invalid(format!(
            "IP address {address} is not a valid IP for the subnet {cidr}."
        )));
    }
    if !hold(tx, subnet_id, cidr, address, holder).await? {
        return Err(conflict(
            "IpAddressInUse",
            format!("IP address {address} on subnet {subnet_id} is already in use."),
        ));
    }
    Ok(())
}

/// Gives back all that a port, or DHCP in one subnet, holds.
///
/// # Errors
/// The store's.
pub async fn give_back(tx: &mut Tx, holder: &str) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM address_allocations WHERE holder = $1",
        params![holder],
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_core::store::Store;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn positions_and_addresses_are_each_others_inverse() {
        for (cidr, address, expected) in [
            ("10.0.0.0/24", "10.0.0.7", Some(7)),
            ("10.0.0.0/24", "10.0.1.7", None),
            ("0.0.0.0/0", "255.255.255.255", Some(4_294_967_295)),
            ("2001:db8::/64", "2001:db8::ff", Some(255)),
            (
                "2001:db8::/64",
                "2001:db8::ffff:ffff:ffff:ffff",
                Some(u128::from(u64::MAX)),
            ),
            ("2001:db8::/48", "2001:db8:0:1::", None),
        ] {
            let cidr: IpNet = cidr.parse().unwrap();
            let address: IpAddr = address.parse().unwrap();
            let found = position(cidr, address);
            assert_eq!(found, expected.and_then(stored), "{cidr} {address}");
            assert_eq!(found.and_then(|p| at(cidr, p)), expected.map(|_| address));
        }
    }

    #[test]
    fn network_and_broadcast_addresses_are_not_handed_out_except_in_point_to_point_nets() {
        for (cidr, expected) in [
            ("10.0.0.0/30", (1, 2)),
            ("10.0.0.0/31", (0, 1)),
            ("10.0.0.1/32", (0, 0)),
            ("2001:db8::/126", (1, 3)),
        ] {
            let cidr: IpNet = cidr.parse().unwrap();
            let bounds = (stored(expected.0).unwrap(), stored(expected.1).unwrap());
            assert_eq!((first(cidr), last(cidr)), bounds, "{cidr}");
        }
    }

    #[tokio::test]
    async fn the_one_behind_the_highest_comes_first_and_what_was_given_back_last() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let cidr: IpNet = "10.0.0.0/24".parse().unwrap();
        let any = |holder: &'static str| {
            store.tx(move |tx| Box::pin(async move { take_any(tx, "s", cidr, holder).await }))
        };
        let pool = (stored(10).unwrap(), stored(12).unwrap());
        let back = |holder: &'static str| {
            store.tx::<_, StoreError, _>(move |tx| {
                Box::pin(async move {
                    let sql =
                        "INSERT INTO subnet_pools VALUES ('s', $1, $2) ON CONFLICT DO NOTHING";
                    tx.execute(sql, params![pool.0, pool.1]).await?;
                    give_back(tx, holder).await
                })
            })
        };
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        back("nobody").await.unwrap();
        assert_eq!(any("a").await.unwrap(), address(10));
        assert_eq!(any("b").await.unwrap(), address(11));
        back("a").await.unwrap();
        assert_eq!(any("c").await.unwrap(), address(12), "not yet the one of a");
        assert_eq!(any("d").await.unwrap(), address(10));
        assert!(any("e").await.is_err());
        back("b").await.unwrap();
        assert_eq!(any("e").await.unwrap(), address(11));
    }

    proptest! {
        #[test]
        fn ranges_from_some_place_are_the_whole_pools(
            starts in proptest::collection::btree_set(any::<i8>(), 1..5), place: u64,
        ) {
            let pools: Vec<(i64, i64)> = starts.iter()
                .map(|s| (i64::from(*s) * 100, i64::from(*s) * 100 + i64::from(*s).abs() % 7))
                .collect();
            let all = |ranges: &[(i64, i64)]| -> Vec<i64> {
                let mut all: Vec<i64> = ranges.iter().flat_map(|(a, b)| *a..=*b).collect();
                all.sort_unstable();
                all
            };
            prop_assert_eq!(all(&from_some_place(&pools, place)), all(&pools));
        }

        #[test]
        fn a_pool_of_all_addresses_has_a_place_for_everybody(place: u64) {
            let ranges = from_some_place(&[(i64::MIN, i64::MAX)], place);
            let last = ranges.first().map(|range| range.1);
            prop_assert_eq!(last, Some(i64::MAX));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Any,
        This(u8),
        Return(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Any),
            2 => any::<u8>().prop_map(Step::This),
            2 => any::<usize>().prop_map(Step::Return),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_address_is_ever_held_twice_and_pools_are_used_to_their_end(
            steps in proptest::collection::vec(step(), 1..40),
            pools in proptest::collection::btree_set(1u128..200, 2..5),
        ) {
            let cidr: IpNet = "10.0.0.0/24".parse().unwrap();
            let bounds: Vec<u128> = pools.into_iter().collect();
            let pools: Vec<(i64, i64)> = bounds
                .chunks_exact(2)
                .map(|b| (stored(b[0]).unwrap(), stored(b[1].min(b[0] + 9)).unwrap()))
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = Store::connect("sqlite::memory:").await.unwrap();
                let mut held: Vec<(String, IpAddr)> = Vec::new();
                for (first, last) in pools.clone() {
                    store.tx::<_, StoreError, _>(|tx| Box::pin(async move {
                        let sql = "INSERT INTO subnet_pools VALUES ('s', $1, $2)";
                        tx.execute(sql, params![first, last]).await
                    })).await.unwrap();
                }
                for (n, step) in steps.into_iter().enumerate() {
                    let holder = format!("port-{n}");
                    let result = match step {
                        Step::Return(index) if !held.is_empty() => {
                            let (holder, _) = held.remove(index % held.len());
                            store.tx::<_, StoreError, _>(|tx| { let holder = holder.clone(); Box::pin(async move {
                                give_back(tx, &holder).await
                            })}).await.unwrap();
                            continue;
                        }
                        Step::This(last) => {
                            let address: IpAddr = [10, 0, 0, last].into();
                            store.tx(|tx| { let holder = holder.clone(); Box::pin(async move {
                                take(tx, "s", cidr, address, &holder).await.map(|()| address)
                            })}).await
                        }
                        _ => store.tx(|tx| { let holder = holder.clone(); Box::pin(async move {
                            take_any(tx, "s", cidr, &holder).await
                        })}).await,
                    };
                    let free = pools.iter().any(|(first, last)| (*first..=*last)
                        .any(|p| !held.iter().any(|(_, a)| Some(*a) == at(cidr, p))));
                    match (&step, result) {
                        (_, Ok(address)) => held.push((holder, address)),
                        (Step::This(_), Err(_)) => {}
                        (_, Err(error)) => assert!(!free, "refused with addresses free: {error}"),
                    }
                    let distinct: BTreeSet<_> = held.iter().map(|(_, a)| a).collect();
                    assert_eq!(distinct.len(), held.len());
                }
            });
        }
    }
}
