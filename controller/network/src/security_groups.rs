//! Security groups and their rules: stored and shown. Enforcing them is not offered yet, and
//! each port says so.

use super::errors::{conflict, invalid, not_found};
use super::quotas;
use super::tags::{self, Kind, Tagged};
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Env, params, row};
use std::collections::HashMap;

/// Groups as they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "security group",
    from: "security_groups g",
    id: "g.id",
    owner: "g.project_id",
    fields: &[
        Field::new("id", "g.id", Is::Text),
        Field::new("name", "g.name", Is::Text),
        Field::new("description", "g.description", Is::Text),
        Field::new("project_id", "g.project_id", Is::Text),
        Field::new("tenant_id", "g.project_id", Is::Text),
        Field::new("revision_number", "g.revision", Is::Number),
        Field::new("created_at", "g.created_at", Is::Time),
        Field::new("updated_at", "g.updated_at", Is::Time),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

/// Rules as they are listed.
pub(crate) const RULES: Table = Table {
    kind: "security group rule",
    from: "security_group_rules r",
    id: "r.id",
    owner: "r.project_id",
    fields: &[
        Field::new("id", "r.id", Is::Text),
        Field::new("security_group_id", "r.group_id", Is::Text),
        Field::new("direction", "r.direction", Is::Text),
        Field::new("ethertype", "r.ethertype", Is::Text),
        Field::new("protocol", "r.protocol", Is::Text).or_null(),
        Field::new("port_range_min", "r.port_min", Is::Number).or_null(),
        Field::new("port_range_max", "r.port_max", Is::Number).or_null(),
        Field::new("remote_group_id", "r.remote_group_id", Is::Text).or_null(),
        Field::new("remote_ip_prefix", "r.remote_ip_prefix", Is::Text).or_null(),
        Field::new("description", "r.description", Is::Text),
        Field::new("project_id", "r.project_id", Is::Text),
        Field::new("tenant_id", "r.project_id", Is::Text),
        Field::new("revision_number", "CAST(1 AS BIGINT)", Is::Number),
        Field::new("created_at", "r.created_at", Is::Time),
        Field::new("updated_at", "r.created_at", Is::Time),
    ],
    order: &[
        ("created_at", Direction::Ascending),
        ("id", Direction::Ascending),
    ],
};

row! {
    /// A group as stored.
    #[derive(Clone, Debug)]
    pub struct Group {
        /// Its id.
        pub id: String,
        /// Whose.
        pub project_id: String,
        /// Its name.
        pub name: String,
        /// Words.
        pub description: String,
        /// Whether it is the project's default one.
        pub is_default: bool,
        /// Rises with each change.
        pub revision: i64,
        /// Unix milliseconds.
        pub created_at: i64,
        /// Unix milliseconds.
        pub updated_at: i64,
    } beside {
        /// What it lets pass.
        pub rules: Vec<Rule>,
        /// Its tags, where they are shown.
        pub tags: Vec<String>,
    }
}

impl Tagged for Group {
    const KIND: Kind = Kind::SecurityGroups;

    fn id(&self) -> &str {
        &self.id
    }

    fn tags(&mut self) -> &mut Vec<String> {
        &mut self.tags
    }
}

row! {
    /// A rule as stored.
    #[derive(Clone, Debug)]
    pub struct Rule {
        /// Its id.
        pub id: String,
        /// Its group.
        pub group_id: String,
        /// Whose.
        pub project_id: String,
        /// Words.
        pub description: String,
        /// `ingress`, `egress`
        pub direction: String,
        /// `IPv4`, `IPv6`
        pub ethertype: String,
        /// `tcp`, `17`; `None` for any.
        pub protocol: Option<String>,
        /// First port, or ICMP type.
        pub port_min: Option<i64>,
        /// Last port, or ICMP code.
        pub port_max: Option<i64>,
        /// From members of this group.
        pub remote_group_id: Option<String>,
        /// From these addresses.
        pub remote_ip_prefix: Option<String>,
        /// Unix milliseconds.
        pub created_at: i64,
    }
}

impl Rule {
    /// What it says, as one text: equal rules have equal ones.
    fn fingerprint(&self) -> String {
        serde_json::json!([
            self.direction,
            self.ethertype,
            self.protocol,
            self.port_min,
            self.port_max,
            self.remote_group_id,
            self.remote_ip_prefix
        ])
        .to_string()
    }
}

/// A 404 for a group.
pub fn missing(id: &str) -> ApiError {
    not_found("SecurityGroupNotFound", "Security group", id)
}

/// A 404 for a rule.
pub fn missing_rule(id: &str) -> ApiError {
    not_found("SecurityGroupRuleNotFound", "Security group rule", id)
}

/// Groups with their rules: a project's, or all (`None`).
///
/// # Errors
/// The store's.
pub async fn list(tx: &mut Tx, project: Option<&str>) -> Result<Vec<Group>, StoreError> {
    of(tx, &Condition::owned("g.project_id", project)).await
}

/// Groups of a page with their rules, in its order.
///
/// # Errors
/// The store's.
pub(crate) async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Group>, StoreError> {
    let mut found = of(tx, &page.among("g.id")).await?;
    tags::fill(tx, &mut found).await?;
    Ok(page.in_order(found, |group| group.id.clone()))
}

/// Rules of a page, in its order.
///
/// # Errors
/// The store's.
pub(crate) async fn rules_of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Rule>, StoreError> {
    let among = page.among("id");
    let (sql, values) = among.statement("SELECT * FROM security_group_rules", "");
    let found = tx.query(&sql, &values).await?;
    Ok(page.in_order(found, |rule: &Rule| rule.id.clone()))
}

async fn of(tx: &mut Tx, which: &Condition) -> Result<Vec<Group>, StoreError> {
    let (sql, values) = which.statement(
        "SELECT g.* FROM security_groups g",
        "ORDER BY created_at, id",
    );
    let mut groups: Vec<Group> = tx.query(&sql, &values).await?;
    let (sql, values) = which.statement(
        "SELECT r.* FROM security_group_rules r JOIN security_groups g ON g.id = r.group_id",
        "ORDER BY r.created_at, r.id",
    );
    let mut rules: HashMap<String, Vec<Rule>> = HashMap::new();
    for rule in tx.query::<Rule>(&sql, &values).await? {
        rules.entry(rule.group_id.clone()).or_default().push(rule);
    }
    for group in &mut groups {
        group.rules = rules.remove(&group.id).unwrap_or_default();
    }
    Ok(groups)
}

/// One group with its rules, whoever's it is.
///
/// # Errors
/// The store's.
pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<Group>, StoreError> {
    let found = of(tx, &Condition::new("g.id = ?", [id.into()])).await?;
    Ok(found.into_iter().next())
}

/// The project's default group, made now if it is not there: everything out, and in only from
/// its own members.
///
/// # Errors
/// The store's.
pub async fn ensure_default(tx: &mut Tx, env: &Env, project: &str) -> Result<String, ApiError> {
    let sql = "SELECT id FROM security_groups WHERE project_id = $1 AND is_default = 1";
    if let Some((id,)) = tx.query_opt(sql, params![project]).await? {
        return Ok(id);
    }
    let group = create(tx, env, project, "default", "Default security group", true).await?;
    for ethertype in ["IPv4", "IPv6"] {
        let mut rule = blank_rule(env, &group, "ingress", ethertype);
        rule.remote_group_id = Some(group.id.clone());
        insert_rule(tx, &rule).await?;
    }
    Ok(group.id)
}

fn blank_rule(env: &Env, group: &Group, direction: &str, ethertype: &str) -> Rule {
    Rule {
        id: env.uuid().to_string(),
        group_id: group.id.clone(),
        project_id: group.project_id.clone(),
        description: String::new(),
        direction: direction.into(),
        ethertype: ethertype.into(),
        protocol: None,
        port_min: None,
        port_max: None,
        remote_group_id: None,
        remote_ip_prefix: None,
        created_at: env.now(),
    }
}

/// Makes a group with the two rules that let everything out.
///
/// # Errors
/// 409 over quota, or for a second `default`.
pub async fn create(
    tx: &mut Tx,
    env: &Env,
    project: &str,
    name: &str,
    description: &str,
    is_default: bool,
) -> Result<Group, ApiError> {
    if name == "default" && !is_default {
        return Err(conflict(
            "SecurityGroupDefaultAlreadyExists",
            "Default security group already exists.",
        ));
    }
    if !is_default {
        quotas::one_more(tx, project, quotas::SECURITY_GROUP).await?;
    }
    let now = env.now();
    let group = Group {
        id: env.uuid().to_string(),
        project_id: project.into(),
        name: name.into(),
        description: description.into(),
        is_default,
        revision: 1,
        created_at: now,
        updated_at: now,
        rules: Vec::new(),
        tags: Vec::new(),
    };
    tx.execute(
        "INSERT INTO security_groups (id, project_id, name, description, is_default, revision, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, 1, $6, $6)",
        params![&group.id, project, name, description, is_default, now],
    )
    .await?;
    for ethertype in ["IPv4", "IPv6"] {
        insert_rule(tx, &blank_rule(env, &group, "egress", ethertype)).await?;
    }
    find(tx, &group.id).await?.ok_or_else(|| missing(&group.id))
}

/// Stores a rule, checked.
///
/// # Errors
/// 400 for what makes no sense, 409 `SecurityGroupRuleExists` for a twin.
pub async fn insert_rule(tx: &mut Tx, rule: &Rule) -> Result<(), ApiError> {
    check(rule)?;
    let r = rule.clone();
    tx.execute(
        "INSERT INTO security_group_rules (id, group_id, project_id, description, direction, \
         ethertype, protocol, port_min, port_max, remote_group_id, remote_ip_prefix, fingerprint, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        params![
            r.id,
            r.group_id,
            r.project_id,
            r.description,
            r.direction,
            r.ethertype,
            r.protocol,
            r.port_min,
            r.port_max,
            r.remote_group_id,
            r.remote_ip_prefix,
            rule.fingerprint(),
            r.created_at
        ],
    )
    .await
    .map_err(|e| match e {
        StoreError::Conflict(_) => conflict(
            "SecurityGroupRuleExists",
            format!(
                "Security group rule already exists in group {}.",
                rule.group_id
            ),
        ),
        other => other.into(),
    })?;
    Ok(())
}

/// Protocols by name that a rule may say; numbers 0 to 255 too.
const PROTOCOLS: [&str; 20] = [
    "any",
    "ah",
    "dccp",
    "egp",
    "esp",
    "gre",
    "hopopt",
    "icmp",
    "icmpv6",
    "igmp",
    "ip",
    "ipip",
    "ipv6-encap",
    "ipv6-icmp",
    "ospf",
    "pgm",
    "rsvp",
    "sctp",
    "tcp",
    "udp",
];

fn check(rule: &Rule) -> Result<(), ApiError> {
    if !matches!(rule.direction.as_str(), "ingress" | "egress") {
        return Err(invalid("direction is to be ingress or egress."));
    }
    if !matches!(rule.ethertype.as_str(), "IPv4" | "IPv6") {
        return Err(invalid("ethertype is to be IPv4 or IPv6."));
    }
    let protocol = rule.protocol.as_deref();
    if let Some(name) = protocol
        && !PROTOCOLS.contains(&name)
        && name.parse::<u8>().is_err()
    {
        return Err(invalid(format!(
            "protocol {} is not known: use a name such as tcp, or a number from 0 to 255.",
            berth_controller_core::body::clip(name)
        )));
    }
    if rule.remote_group_id.is_some() && rule.remote_ip_prefix.is_some() {
        return Err(invalid(
            "Only remote_ip_prefix or remote_group_id may be provided.",
        ));
    }
    if let Some(prefix) = &rule.remote_ip_prefix {
        let net: ipnet::IpNet = prefix.parse().map_err(|_| {
            invalid(format!(
                "remote_ip_prefix {} is no CIDR.",
                berth_controller_core::body::clip(prefix)
            ))
        })?;
        if net.addr().is_ipv4() != (rule.ethertype == "IPv4") {
            return Err(invalid(format!(
                "Conflicting value ethertype {} for CIDR {net}.",
                rule.ethertype
            )));
        }
    }
    check_ports(rule)
}

fn check_ports(rule: &Rule) -> Result<(), ApiError> {
    let (min, max) = (rule.port_min, rule.port_max);
    if min.is_none() && max.is_none() {
        return Ok(());
    }
    match rule.protocol.as_deref() {
        Some("icmp" | "icmpv6" | "ipv6-icmp" | "1" | "58") => {
            let in_byte = |n: i64| (0..=255).contains(&n);
            if min.is_none() || !min.is_none_or(in_byte) || !max.is_none_or(in_byte) {
                return Err(invalid(
                    "ICMP type (port_range_min) and code (port_range_max) are to be from 0 to \
                     255, and a code needs a type.",
                ));
            }
        }
        Some("tcp" | "udp" | "sctp" | "dccp" | "6" | "17" | "132" | "33") => {
            let ports = 1..=65_535;
            match min.zip(max) {
                Some((min, max)) if ports.contains(&min) && ports.contains(&max) && min <= max => {}
                _ => {
                    return Err(invalid(
                        "For TCP/UDP protocols, port_range_min must be <= port_range_max, both \
                         from 1 to 65535.",
                    ));
                }
            }
        }
        _ => {
            return Err(invalid(
                "Must also specify protocol if port range is given: tcp, udp, sctp, dccp or icmp.",
            ));
        }
    }
    Ok(())
}

/// Removes a group with its rules.
///
/// # Errors
/// 409 `SecurityGroupInUse` for one on a port; and for a project's default one, which only an
/// administrator may remove (and which is made again when it is needed).
pub async fn delete(tx: &mut Tx, group: &Group, may_default: bool) -> Result<(), ApiError> {
    if group.is_default && !may_default {
        return Err(conflict(
            "SecurityGroupCannotRemoveDefault",
            "Insufficient rights for removing default security group.",
        ));
    }
    let sql = "SELECT port_id FROM port_security_groups WHERE group_id = $1";
    let used: Option<(String,)> = tx.query_opt(sql, params![&group.id]).await?;
    if used.is_some() {
        return Err(conflict(
            "SecurityGroupInUse",
            format!("Security Group {} in use.", group.id),
        ));
    }
    let named: &str = &group.id;
    let rules = Condition::new(
        "r.group_id = ? OR r.remote_group_id = ?",
        [named.into(), named.into()],
    );
    markers::keep(tx, &RULES, &rules).await?;
    markers::keep(tx, &TABLE, &Condition::new("g.id = ?", [named.into()])).await?;
    let own = Condition::new("resource_id = ?", [named.into()]);
    tags::clear(tx, Kind::SecurityGroups, own).await?;
    for sql in [
        "DELETE FROM security_group_rules WHERE group_id = $1 OR remote_group_id = $1",
        "DELETE FROM security_groups WHERE id = $1",
    ] {
        tx.execute(sql, params![&group.id]).await?;
    }
    Ok(())
}

/// Removes a rule; whether there was one.
///
/// # Errors
/// The store's.
pub async fn delete_rule(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    markers::keep(tx, &RULES, &Condition::new("r.id = ?", [id.into()])).await?;
    let sql = "DELETE FROM security_group_rules WHERE id = $1";
    Ok(tx.execute(sql, params![id]).await? > 0)
}
