//! Pages of a real table, on a real database.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::params;
use crate::store::{Store, StoreError};

const TABLE: Table = Table {
    kind: "port",
    from: "ports p",
    id: "p.id",
    owner: "p.project_id",
    fields: &[
        Field::new("id", "p.id", Is::Text),
        Field::new("name", "p.name", Is::Text),
        Field::new("up", "p.admin_state_up", Is::Flag),
        Field::new("size", "p.device_index", Is::Number),
        Field::new("host", "p.host_id", Is::Text).or_null(),
        Field::new("created_at", "p.created_at", Is::Time),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

const STYLE: Style = Style {
    service: Service::Network,
    direction: Direction::Ascending,
    default_limit: None,
    max_limit: 4,
};

/// Ports a to e; the last is another project's.
async fn five() -> Store {
    let store = Store::connect("sqlite::memory:").await.unwrap();
    for (id, project, name, up, size, host) in [
        ("a", "p", "x", 1_i64, 10_i64, None),
        ("b", "p", "y", 0, 9, Some("h")),
        ("c", "p", "x", 1, -1, None),
        ("d", "p", "", 1, 1, Some("none")),
        ("e", "q", "x", 1, 1, None),
    ] {
        let inserted = store.tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO ports (id, network_id, project_id, name, description, \
                     admin_state_up, mac, device_id, device_owner, status, made_by_compute, \
                     device_index, host_id, revision, created_at, updated_at) \
                     VALUES ($1, 'n', $2, $3, '', $4, $1, '', '', 'DOWN', 0, $5, $6, 1, 1500, 1)",
                    params![id, project, name, up, size, host],
                )
                .await
            })
        });
        inserted.await.unwrap();
    }
    store
}

fn params(query: &[(&str, &str)]) -> Params {
    let pairs = query.iter();
    Params(
        pairs
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
    )
}

/// The ids of a page of project `p`, with a `+` if there are more; or the status.
async fn page(store: &Store, query: &[(&str, &str)]) -> Result<String, u16> {
    let own = |name: &str, wanted: &[&str]| match name {
        "long" => Some(Ok(Condition::new(
            "LENGTH(p.name) >= ?",
            [wanted[0].parse::<i64>().unwrap().into()],
        ))),
        _ => None,
    };
    let asked = STYLE
        .asked(&TABLE, &params(query), &["host"], own)
        .map_err(|e| e.status.as_u16())?;
    let visible = Condition::owned("p.project_id", Some("p"));
    let found = store.tx(|tx| {
        let (asked, visible) = (asked.clone(), visible.clone());
        Box::pin(async move { STYLE.page(tx, &TABLE, &visible, Some("p"), &asked).await })
    });
    let found = found.await.map_err(|e| e.status.as_u16())?;
    Ok(found.ids.concat() + if found.more { "+" } else { "" })
}

async fn delete(store: &Store, id: &'static str) {
    let deleted = store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            let which = Condition::new("p.id = ?", [id.into()]);
            markers::keep(tx, &TABLE, &which).await?;
            tx.execute("DELETE FROM ports WHERE id = $1", params![id])
                .await
        })
    });
    assert_eq!(deleted.await.unwrap(), 1);
}

#[tokio::test]
async fn filters_of_one_name_are_alternatives_and_of_several_conditions() {
    let store = five().await;
    for (query, ids) in [
        (&[][..], Ok("abcd")),
        (&[("name", "x"), ("name", "y")], Ok("abc")),
        (&[("name", "x"), ("size", "10")], Ok("a")),
        (&[("name", "x' OR '1' = '1")], Ok("")),
        (&[("size", "ten")], Ok("")),
        (&[("up", "False")], Ok("b")),
        (&[("up", "maybe")], Ok("")),
        (&[("created_at", "1970-01-01T00:00:01Z")], Ok("abcd")),
        (&[("created_at", "1970-01-01T00:00:02Z")], Ok("")),
        (&[("long", "1")], Ok("abc")),
        (&[("colour", "red")], Err(400)),
        // What the caller is not shown tells nothing.
        (&[("host", "h")], Ok("")),
        (&[("sort_key", "host")], Err(400)),
        (&[("limit", "-1")], Err(400)),
        (&[("limit", "x")], Err(400)),
        (&[("sort_key", "password")], Err(400)),
        (&[("sort", "id:up")], Err(400)),
        (
            &[("sort_key", "id"), ("sort_dir", "asc"), ("sort_dir", "asc")],
            Err(400),
        ),
        // Another project's, and nobody's.
        (&[("marker", "e")], Err(400)),
        (&[("marker", "z")], Err(400)),
    ] {
        let found = page(&store, query).await;
        assert_eq!(found, ids.map(str::to_owned), "{query:?}");
    }
}

#[tokio::test]
async fn a_null_is_found_as_none_and_comes_first() {
    let store = five().await;
    let found = async |query: &[(&str, &str)]| {
        let asked = STYLE
            .asked(&TABLE, &params(query), &[], |_, _| None)
            .unwrap();
        let found = store.tx(|tx| {
            let asked = asked.clone();
            Box::pin(async move {
                let all = Condition::default();
                STYLE.page(tx, &TABLE, &all, None, &asked).await
            })
        });
        found.await.unwrap().ids.concat()
    };
    assert_eq!(found(&[("host", "")]).await, "ace");
    assert_eq!(found(&[("host", "None")]).await, "ace");
    assert_eq!(found(&[("host", "none")]).await, "acde");
    assert_eq!(found(&[("sort_key", "host")]).await, "aceb");
    assert_eq!(found(&[("sort_key", "host"), ("marker", "e")]).await, "bd");
}

#[tokio::test]
async fn pages_in_any_order_join_to_the_whole_both_ways() {
    let store = five().await;
    for sort in [
        &[][..],
        &[("sort_key", "name")],
        &[("sort_key", "name"), ("sort_dir", "desc")],
        &[("sort", "name:desc,id:desc")],
        &[("sort", "up:desc,size,created_at:desc")],
        &[("sort_dir", "desc")],
    ] {
        let mut whole = page(&store, sort).await.unwrap();
        assert_eq!(whole.len(), 4, "{sort:?}");
        let mut joined = String::new();
        loop {
            let marker = joined.chars().last().map(String::from).unwrap_or_default();
            let mut query = sort.to_vec();
            query.push(("limit", "1"));
            if !marker.is_empty() {
                query.push(("marker", &marker));
            }
            let one = page(&store, &query).await.unwrap();
            joined.push_str(one.trim_end_matches('+'));
            if !one.ends_with('+') {
                break;
            }
        }
        assert_eq!(joined, whole, "{sort:?}");
        let last = whole.pop().map(String::from).unwrap_or_default();
        let mut query = sort.to_vec();
        query.extend([
            ("marker", last.as_str()),
            ("page_reverse", "True"),
            ("limit", "2"),
        ]);
        assert_eq!(
            page(&store, &query).await.unwrap(),
            format!("{}+", &whole[1..])
        );
    }
}

#[tokio::test]
async fn a_page_begins_behind_a_row_that_was_deleted_or_left_the_filter() {
    let store = five().await;
    let next = [
        ("sort_key", "size"),
        ("up", "true"),
        ("marker", "d"),
        ("limit", "1"),
    ];
    assert_eq!(page(&store, &next).await.unwrap(), "a");
    delete(&store, "d").await;
    assert_eq!(page(&store, &next).await.unwrap(), "a");
    assert_eq!(page(&store, &[("marker", "d")]).await.unwrap(), "");
    assert_eq!(
        page(&store, &[("sort", "id:desc"), ("marker", "d")])
            .await
            .unwrap(),
        "cba"
    );
    // It is down, and the list is of those that are up.
    assert_eq!(
        page(&store, &[("up", "true"), ("marker", "b")])
            .await
            .unwrap(),
        "c"
    );
    // Another project's is as good as none.
    delete(&store, "e").await;
    assert_eq!(page(&store, &[("marker", "e")]).await, Err(400));
    // What was deleted long ago is forgotten.
    let pruned = async || {
        let pruned = store.tx(|tx| Box::pin(markers::prune(tx, 10)));
        pruned.await.unwrap()
    };
    assert_eq!(pruned().await, 0);
    let later = store.tx::<_, StoreError, _>(|tx| {
        Box::pin(tx.execute("UPDATE beats SET beat = beat + 11", &[]))
    });
    later.await.unwrap();
    assert_eq!(pruned().await, 2);
    assert_eq!(page(&store, &[("marker", "d")]).await, Err(400));
}

#[test]
fn a_link_is_the_query_with_another_marker() {
    let query = params(&[
        ("name", "a b&c"),
        ("marker", "x"),
        ("fields", "id"),
        ("limit", "1"),
    ]);
    assert_eq!(
        again(&query, &[("marker", Some("y")), ("page_reverse", None)]),
        "name=a+b%26c&fields=id&limit=1&marker=y"
    );
}
