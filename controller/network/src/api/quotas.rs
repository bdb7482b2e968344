//! Quotas over HTTP: an administrator's to set, a project's to see.

use super::{Reply, STYLE, answer_list, forbidden, no_content, ok};
use crate::quotas::{self, COUNTED};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::Path;
use berth_controller_core::body::{self, Fields};
use berth_controller_core::listing::{Condition, Direction, Field, Is, Table};
use berth_controller_core::query::Params;
use berth_controller_core::store::Tx;
use berth_controller_core::{ApiError, Call, RequestContext, Service, params, read, tx};
use serde_json::{Map, Value, json};

fn may_see(context: &RequestContext, project: &str) -> Result<(), ApiError> {
    if context.may_see(project) {
        return Ok(());
    }
    Err(forbidden(
        "Only an administrator may see another project's quotas.",
    ))
}

async fn limits(tx: &mut Tx, project: &str) -> Result<Value, ApiError> {
    let mut all = Map::new();
    for what in COUNTED {
        let limit = quotas::limit(tx, project, *what).await?;
        all.insert(what.name.to_owned(), json!(limit));
    }
    Ok(Value::Object(all))
}

/// Projects whose quotas were set, as they are listed.
const TABLE: Table = Table {
    kind: "quota",
    from: "(SELECT DISTINCT project_id FROM network_quotas) q",
    id: "q.project_id",
    owner: "q.project_id",
    fields: &[
        Field::new("project_id", "q.project_id", Is::Text),
        Field::new("tenant_id", "q.project_id", Is::Text),
    ],
    order: &[("project_id", Direction::Ascending)],
};

/// `GET /v2.0/quotas`
pub async fn list(call: Call, query: Params) -> Reply {
    let asked = STYLE.asked(&TABLE, &query, &[], |_, _| None)?;
    let (page, views) = read!(call, |tx| [asked] {
        let page = STYLE.page(tx, &TABLE, &Condition::default(), None, &asked).await?;
        let mut views = Vec::new();
        for project in &page.ids {
            let mut view = limits(tx, project).await?;
            view["project_id"] = json!(project);
            view["tenant_id"] = json!(project);
            views.push(view);
        }
        Ok::<_, ApiError>((page, views))
    })?;
    answer_list(&call.app, "quotas", "quotas", &page, views, &query)
}

/// `GET /v2.0/quotas/{project}`
pub async fn show(call: Call, Path(project): Path<String>) -> Reply {
    may_see(&call.context, &project)?;
    let quota = read!(call, |tx| [project] { limits(tx, &project).await })?;
    Ok(ok(json!({"quota": quota})))
}

/// `GET /v2.0/quotas/{project}/default`
pub async fn defaults(
    Extension(context): Extension<RequestContext>,
    Path(project): Path<String>,
) -> Reply {
    may_see(&context, &project)?;
    let quota: Map<String, Value> = COUNTED
        .iter()
        .map(|what| (what.name.to_owned(), json!(what.default)))
        .collect();
    Ok(ok(json!({"quota": quota})))
}

/// `GET /v2.0/quotas/{project}/details.json`
pub async fn details(call: Call, Path(project): Path<String>) -> Reply {
    may_see(&call.context, &project)?;
    let quota = read!(call, |tx| [project] {
        let mut all = Map::new();
        for what in COUNTED {
            let limit = quotas::limit(tx, &project, *what).await?;
            let used = quotas::used(tx, &project, *what).await?;
            let detail = json!({"limit": limit, "used": used, "reserved": 0});
            all.insert(what.name.to_owned(), detail);
        }
        Ok::<_, ApiError>(all)
    })?;
    Ok(ok(json!({"quota": quota})))
}

/// `PUT /v2.0/quotas/{project}`; -1 is no limit.
pub async fn update(call: Call, Path(project): Path<String>, bytes: Bytes) -> Reply {
    let body = body::parse(Service::Network, &bytes)?;
    let fields = Fields::within(Service::Network, &body, "quota")?;
    let mut known: Vec<&str> = COUNTED.iter().map(|w| w.name).collect();
    known.extend(["project_id", "tenant_id", "force", "check_limit"]);
    fields.only(&known)?;
    let mut changes = Vec::new();
    for what in COUNTED {
        if let Some(value) = fields.int(what.name, -1, i64::from(i32::MAX))? {
            changes.push((what.name, value));
        }
    }
    let quota = tx!(call, |tx| [project, changes] {
        for (name, value) in changes {
            tx.execute(
                "INSERT INTO network_quotas (project_id, resource, value) \
                 VALUES ($1, $2, $3) ON CONFLICT (project_id, resource) \
                 DO UPDATE SET value = excluded.value",
                params![&project, name, value],
            )
            .await?;
        }
        limits(tx, &project).await
    })?;
    Ok(ok(json!({"quota": quota})))
}

/// `DELETE /v2.0/quotas/{project}`: back to the defaults.
pub async fn reset(call: Call, Path(project): Path<String>) -> Reply {
    tx!(call, |tx| [project] {
        tx.execute(
            "DELETE FROM network_quotas WHERE project_id = $1",
            params![project],
        )
        .await?;
        Ok::<_, ApiError>(())
    })?;
    Ok(no_content())
}
