//! The list of role assignments: as they were made, or as they take effect.

use super::{Reply, collection, oneself_or_more};
use crate::assignments::{ALL, EFFECTIVE};
use crate::implied;
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::{ApiError, AppState, Call, read, row};
use serde_json::{Value, json};

row! {
    #[derive(Clone)]
    struct Assignment {
        actor_kind: String,
        actor_id: String,
        actor_name: String,
        actor_domain: String,
        actor_domain_name: String,
        target_kind: String,
        target_id: String,
        target_name: String,
        target_domain: String,
        target_domain_name: String,
        role_id: String,
        role_name: String,
        /// On the projects in the target.
        inherited: bool,
        /// The group that an effective one comes by, or ''.
        by_group: String,
        /// The domain that an effective one is inherited from, or ''.
        from_domain: String,
    }
}

/// `GET /v3/role_assignments`, with its usual filters.
pub async fn list(call: Call, query: Params) -> Reply {
    oneself_or_more(&call.context, query.get("user.id").unwrap_or_default())?;
    let effective = query.flag("effective") == Some(true);
    let names = query.flag("include_names") == Some(true);
    let role = query.get("role.id").map(str::to_owned);
    let mut which = filter(&query, effective);
    if let Some(domain) = call.context.reach.domain() {
        let sql = "p.domain_id = ? OR t.id = ?";
        which.and(Condition::new(sql, [domain.into(), domain.into()]));
    }
    if !effective && let Some(role) = &role {
        which.and(Condition::new("a.role_id = ?", [role.into()]));
    }
    let (sql, values) = which.statement(&select(effective), ORDER);
    let mut rows: Vec<Assignment> = read!(call, |tx| [sql, values] {
        Ok::<_, ApiError>(tx.query(&sql, &values).await?)
    })?;
    if effective {
        let roles: Vec<(String, String)> = read!(call, |tx| [] {
            Ok::<_, ApiError>(tx.query("SELECT id, name FROM roles", &[]).await?)
        })?;
        rows = with_implied(rows, &roles);
        rows.retain(|row| role.as_ref().is_none_or(|role| *role == row.role_id));
    }
    let items = rows.iter().map(|row| row.view(&call.app, names, effective));
    let items = items.collect();
    let key = "role_assignments";
    Ok(collection(&call.app, key, key, items))
}

const ORDER: &str = "ORDER BY actor_kind DESC, actor_id, target_kind, target_id, role_name";

/// Both kinds in the same columns.
fn select(effective: bool) -> String {
    let (from, columns) = match effective {
        false => (
            ALL,
            "a.actor_kind, a.actor_id, a.inherited, '' AS by_group, '' AS from_domain",
        ),
        true => (
            EFFECTIVE,
            "'user' AS actor_kind, a.user_id AS actor_id, CAST(0 AS BIGINT) AS inherited, \
             CASE WHEN a.actor_kind = 'group' THEN a.actor_id ELSE '' END AS by_group, a.from_domain",
        ),
    };
    let actor = match effective {
        false => "u.id = a.actor_id AND a.actor_kind = 'user'",
        true => "u.id = a.user_id",
    };
    let group = match effective {
        false => "g.id = a.actor_id AND a.actor_kind = 'group'",
        true => "1 = 0",
    };
    format!(
        "SELECT {columns}, COALESCE(u.name, g.name, '') AS actor_name, COALESCE(ad.id, '') AS actor_domain, \
         COALESCE(ad.name, '') AS actor_domain_name, a.target_kind, a.target_id, \
         COALESCE(p.name, t.name, '') AS target_name, COALESCE(pd.id, '') AS target_domain, \
         COALESCE(pd.name, '') AS target_domain_name, a.role_id, r.name AS role_name \
         FROM {from} a JOIN roles r ON r.id = a.role_id \
         LEFT JOIN users u ON {actor} LEFT JOIN groups g ON {group} \
         LEFT JOIN domains ad ON ad.id = COALESCE(u.domain_id, g.domain_id) \
         LEFT JOIN projects p ON p.id = a.target_id AND a.target_kind = 'project' \
         LEFT JOIN domains pd ON pd.id = p.domain_id \
         LEFT JOIN domains t ON t.id = a.target_id AND a.target_kind = 'domain'"
    )
}

fn filter(query: &Params, effective: bool) -> Condition {
    let mut which = Condition::default();
    let mut equal = |sql: &str, value: &str| which.and(Condition::new(sql, [value.into()]));
    let user = if effective {
        "a.user_id = ?"
    } else {
        "a.actor_kind = 'user' AND a.actor_id = ?"
    };
    for (name, sql) in [
        ("user.id", user),
        ("group.id", "a.actor_kind = 'group' AND a.actor_id = ?"),
        (
            "scope.project.id",
            "a.target_kind = 'project' AND a.target_id = ?",
        ),
        (
            "scope.domain.id",
            "a.target_kind = 'domain' AND a.target_id = ?",
        ),
    ] {
        if let Some(value) = query.get(name) {
            equal(sql, value);
        }
    }
    if query.get("scope.system").is_some() {
        which.and(Condition::new("a.target_kind = 'system'", []));
    }
    if query.get("scope.OS-INHERIT:inherited_to").is_some() {
        let sql = if effective {
            "a.from_domain <> ''"
        } else {
            "a.inherited = 1"
        };
        which.and(Condition::new(sql, []));
    }
    which
}

/// Each with those of the roles that having it implies.
fn with_implied(rows: Vec<Assignment>, roles: &[(String, String)]) -> Vec<Assignment> {
    let id = |name: &str| {
        roles
            .iter()
            .find(|(_, n)| n == name)
            .map(|(id, _)| id.clone())
    };
    let implied_by = |row: &Assignment| -> Vec<Assignment> {
        let each = implied(&row.role_name).iter().filter_map(|name| {
            Some(Assignment {
                role_id: id(name)?,
                role_name: (*name).to_owned(),
                ..row.clone()
            })
        });
        each.collect()
    };
    let mut all: Vec<Assignment> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for row in rows {
        let more = implied_by(&row);
        for row in std::iter::once(row).chain(more) {
            let key = [
                &row.actor_id,
                &row.target_kind,
                &row.target_id,
                &row.role_id,
                &row.by_group,
            ];
            if seen.insert(key.map(String::clone)) {
                all.push(row);
            }
        }
    }
    all
}

impl Assignment {
    fn view(&self, app: &AppState, names: bool, effective: bool) -> Value {
        let (actor_kind, actor, role) = (self.actor_kind.as_str(), &self.actor_id, &self.role_id);
        let (kind, target) = (self.target_kind.as_str(), &self.target_id);
        let mut item = json!({actor_kind: {"id": actor}, "role": {"id": role}});
        item["scope"] = match kind {
            "system" => json!({"system": {"all": true}}),
            _ => json!({kind: {"id": target}}),
        };
        if self.inherited || !self.from_domain.is_empty() {
            item["scope"]["OS-INHERIT:inherited_to"] = json!("projects");
        }
        if names {
            item[actor_kind]["name"] = json!(self.actor_name);
            item[actor_kind]["domain"] =
                json!({"id": self.actor_domain, "name": self.actor_domain_name});
            item["role"]["name"] = json!(self.role_name);
            if kind != "system" {
                item["scope"][kind]["name"] = json!(self.target_name);
            }
            if kind == "project" {
                item["scope"]["project"]["domain"] =
                    json!({"id": self.target_domain, "name": self.target_domain_name});
            }
        }
        // Where it was made: what takes effect comes from there.
        let base = format!("{}/identity/v3", app.base_url);
        let (made_by, made_for) = match self.by_group.as_str() {
            "" => (actor_kind, actor),
            _ => ("group", &self.by_group),
        };
        let place = match (kind, self.from_domain.as_str()) {
            ("system", _) => "system".to_owned(),
            (_, "") => format!("{kind}s/{target}"),
            (_, domain) => format!("domains/{domain}"),
        };
        let link = format!("{place}/{made_by}s/{made_for}/roles/{role}");
        let link = match self.inherited || !self.from_domain.is_empty() {
            true => format!("{base}/OS-INHERIT/{link}/inherited_to_projects"),
            false => format!("{base}/{link}"),
        };
        item["links"] = json!({"assignment": link});
        if effective && !self.by_group.is_empty() {
            let membership = format!("{base}/groups/{}/users/{actor}", self.by_group);
            item["links"]["membership"] = json!(membership);
        }
        item
    }
}
