//! Which servers a list shows, in which order, and which page of them.
//!
//! What can be said in SQL the database finds. What is a regular expression to Nova is one here, with
//! bounded size and linear time; it is matched on the rows, part by part until the page is full. Most
//! are a piece of a name, or a whole one, which SQL can say.

use crate::instances::{self, Instance};
use axum::http::StatusCode;
use berth_controller_core::body::clip;
use berth_controller_core::listing::{
    Asked, Condition, Direction, Field, Ids, Is, PageError, Table,
};
use berth_controller_core::store::{StoreError, Tx, Value};
use berth_controller_core::{ApiError, Service};
use berth_rpc_types::{InstanceId, TaskState, VmState};
use regex::{Regex, RegexBuilder};
use std::collections::BTreeSet;

/// The most servers in one answer, as Nova's default.
pub const MAX_LIMIT: usize = 1000;
/// Rows that are read at once for what SQL cannot say.
const PART: usize = 256;

/// As they are listed. What may be sorted by, in Nova's names.
pub const TABLE: Table = Table {
    kind: "server",
    from: "instances i",
    id: "i.id",
    owner: "i.project_id",
    fields: &[
        Field::new("created_at", "i.created_at", Is::Time),
        Field::new("updated_at", "i.updated_at", Is::Time),
        Field::new("launched_at", "i.launched_at", Is::Time).or_null(),
        Field::new("display_name", "i.name", Is::Text),
        Field::new("uuid", "i.id", Is::Text),
        Field::new("vm_state", "i.vm_state", Is::Text),
        Field::new("task_state", "i.task_state", Is::Text).or_null(),
        Field::new("power_state", "i.power_state", Is::Number),
        Field::new("image_ref", "i.image_id", Is::Text).or_null(),
        Field::new("key_name", "i.key_name", Is::Text).or_null(),
        Field::new("project_id", "i.project_id", Is::Text),
        Field::new("user_id", "i.user_id", Is::Text),
        Field::new("host", "i.host_id", Is::Text).or_null(),
        Field::new("availability_zone", "i.availability_zone", Is::Text).or_null(),
    ],
    order: &[
        ("created_at", Direction::Descending),
        ("uuid", Direction::Descending),
    ],
};

/// A user's regular expression.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Is this: `^web$`
    Is(String),
    /// Has this in it: `web`
    Has(String),
    /// Whatever else.
    Regex(Regex),
}

impl Pattern {
    /// Reads one, bounded in size. The engine's time is linear in its input.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = |text: &str| !text.contains(|c: char| r"\.+*?()|[]{}^$".contains(c));
        let whole = text
            .strip_prefix('^')
            .and_then(|text| text.strip_suffix('$'));
        match whole {
            Some(whole) if plain(whole) => return Ok(Self::Is(whole.to_owned())),
            _ if plain(text) => return Ok(Self::Has(text.to_owned())),
            _ => {}
        }
        let built = RegexBuilder::new(text).size_limit(1 << 16).build();
        built
            .map(Self::Regex)
            .map_err(|_| "is no regular expression that is understood here".to_owned())
    }

    /// Whether a text matches.
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Is(whole) => text == whole,
            Self::Has(part) => text.contains(part.as_str()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// The same in SQL, as far as that can say it.
    fn condition(&self, column: &str) -> Option<Condition> {
        match self {
            Self::Is(whole) => Some(Condition::new(format!("{column} = ?"), [whole.into()])),
            Self::Has(part) if part.is_empty() => Some(Condition::default()),
            // Without it it is another text: both databases say that, and none minds the case.
            Self::Has(part) => Some(Condition::new(
                format!("REPLACE({column}, ?, '') <> {column}"),
                [part.into()],
            )),
            Self::Regex(_) => None,
        }
    }
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this project's; `None` for all.
    pub project: Option<String>,
    /// Only this user's.
    pub user: Option<String>,
    /// Deleted ones (`true`), living ones (`false`), or both.
    pub deleted: Option<bool>,
    /// One of these states, with the task that a status asks for.
    pub states: Vec<(VmState, Option<TaskState>)>,
    /// Changed at or after, Unix milliseconds.
    pub changes_since: Option<i64>,
    /// Changed at or before, Unix milliseconds.
    pub changes_before: Option<i64>,
    /// Locked ones, or others.
    pub locked: Option<bool>,
    /// Name.
    pub name: Option<Pattern>,
    /// Image's id.
    pub image: Option<String>,
    /// Flavor's id.
    pub flavor: Option<String>,
    /// Server's id.
    pub id: Option<String>,
    /// Host's id.
    pub host_ids: Option<Vec<String>>,
    /// Key's name.
    pub key_name: Option<Pattern>,
    /// Availability zone.
    pub zone: Option<Pattern>,
    /// Description.
    pub description: Option<Pattern>,
    /// `vm_state` by name.
    pub vm_state: Option<String>,
    /// Has all of these.
    pub tags: Vec<String>,
    /// Has one of these.
    pub tags_any: Vec<String>,
    /// Has not all of these.
    pub not_tags: Vec<String>,
    /// Has none of these.
    pub not_tags_any: Vec<String>,
    /// An address of IPv4.
    pub ip: Option<Pattern>,
    /// An address of IPv6.
    pub ip6: Option<Pattern>,
    /// A filter that nothing can match: an unknown status.
    pub nothing: bool,
}

impl Filter {
    /// Whose rows may be seen at all: a marker is one of them.
    fn visible(&self) -> Condition {
        Condition::owned("i.project_id", self.project.as_deref())
    }

    /// What SQL can say of it.
    fn condition(&self) -> Condition {
        let mut all = Condition::default();
        match self.deleted {
            Some(true) => all.and(Condition::new("i.deleted_at IS NOT NULL", [])),
            Some(false) => all.and(Condition::new("i.deleted_at IS NULL", [])),
            None => {}
        }
        if self.nothing {
            all.and(Condition::never());
        }
        let mut equal = |column: &str, value: Option<Value>| {
            if let Some(value) = value {
                all.and(Condition::new(format!("{column} = ?"), [value]));
            }
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        equal("i.user_id", text(&self.user));
        equal("i.image_id", text(&self.image));
        equal("i.id", text(&self.id));
        equal("i.vm_state", text(&self.vm_state));
        if let Some(since) = self.changes_since {
            all.and(Condition::new("i.updated_at >= ?", [since.into()]));
        }
        if let Some(before) = self.changes_before {
            all.and(Condition::new("i.updated_at <= ?", [before.into()]));
        }
        if let Some(locked) = self.locked {
            all.and(Condition::new("i.locked = ?", [locked.into()]));
        }
        if let Some(ids) = &self.host_ids {
            all.and(Condition::among("i.host_id", ids.iter().map(Value::from)));
        }
        for (pattern, column) in [
            (&self.name, "i.name"),
            (&self.key_name, "COALESCE(i.key_name, '')"),
            (&self.zone, "COALESCE(i.availability_zone, '')"),
        ] {
            all.and(
                pattern
                    .as_ref()
                    .and_then(|p| p.condition(column))
                    .unwrap_or_default(),
            );
        }
        if !self.states.is_empty() {
            all.and(Condition::any(self.states.iter().map(is_in)));
        }
        all
    }

    /// Whether SQL says all of it.
    fn is_sql(&self) -> bool {
        let in_sql = |pattern: &Option<Pattern>| !matches!(pattern, Some(Pattern::Regex(_)));
        let tags = [
            &self.tags,
            &self.tags_any,
            &self.not_tags,
            &self.not_tags_any,
        ];
        [&self.name, &self.key_name, &self.zone]
            .into_iter()
            .all(in_sql)
            && [&self.description, &self.ip, &self.ip6]
                .iter()
                .all(|p| p.is_none())
            && self.flavor.is_none()
            && tags.iter().all(|tags| tags.is_empty())
    }

    /// What SQL does not say of it, or not all.
    fn matches(&self, i: &Instance) -> bool {
        let pattern = |want: &Option<Pattern>, have: Option<&str>| {
            want.as_ref()
                .is_none_or(|w| w.is_match(have.unwrap_or_default()))
        };
        let has = |tag: &String| i.body.tags.contains(tag);
        self.flavor.as_ref().is_none_or(|id| *id == i.flavor.id)
            && pattern(&self.name, Some(&i.name))
            && pattern(&self.key_name, i.key_name.as_deref())
            && pattern(&self.zone, i.availability_zone.as_deref())
            && pattern(&self.description, i.body.description.as_deref())
            && self.tags.iter().all(has)
            && (self.tags_any.is_empty() || self.tags_any.iter().any(has))
            && (self.not_tags.is_empty() || !self.not_tags.iter().all(has))
            && !self.not_tags_any.iter().any(has)
    }

    /// Leaves those that have the addresses.
    async fn by_address(&self, tx: &mut Tx, found: &mut Vec<Instance>) -> Result<(), StoreError> {
        if self.ip.is_none() && self.ip6.is_none() {
            return Ok(());
        }
        let ids: Vec<InstanceId> = found.iter().map(|i| i.id).collect();
        let addresses = berth_controller_network::addresses(tx, &ids).await?;
        let has = |id: InstanceId, want: &Option<Pattern>, v4: bool| {
            want.as_ref().is_none_or(|want| {
                addresses.get(&id).is_some_and(|all| {
                    all.iter()
                        .any(|a| a.address.is_ipv4() == v4 && want.is_match(&a.address.to_string()))
                })
            })
        };
        found.retain(|i| has(i.id, &self.ip, true) && has(i.id, &self.ip6, false));
        Ok(())
    }
}

/// In a state, with the task that a status asks for. ACTIVE means no reboot: those have a status of
/// their own.
fn is_in((state, task): &(VmState, Option<TaskState>)) -> Condition {
    let mut is = Condition::new("i.vm_state = ?", [state.as_str().into()]);
    is.and(match task {
        Some(task) => Condition::new("i.task_state = ?", [task.as_str().into()]),
        None if *state == VmState::Active => Condition::new(
            "COALESCE(i.task_state, '') NOT IN (?, ?)",
            [TaskState::Rebooting, TaskState::RebootingHard].map(|task| task.as_str().into()),
        ),
        None => Condition::default(),
    });
    is
}

/// A page of the servers that match.
///
/// # Errors
/// 400 for a marker that never was.
pub async fn list(
    tx: &mut Tx,
    filter: &Filter,
    order: &[(String, Direction)],
    marker: Option<&str>,
    limit: usize,
) -> Result<Vec<Instance>, ApiError> {
    let keys = order
        .iter()
        .filter_map(|(key, direction)| TABLE.field(key).map(|field| (field, *direction)));
    let in_sql = filter.is_sql();
    let mut asked = Asked {
        filter: filter.condition(),
        order: TABLE.whole(keys.collect()),
        marker: marker.map(str::to_owned),
        limit: if in_sql { limit } else { PART },
        reverse: false,
    };
    let project = filter.project.as_deref();
    let mut found: Vec<Instance> = Vec::new();
    loop {
        let page = TABLE.page(tx, &filter.visible(), project, &asked).await;
        let page = page.map_err(|why| refused(why, &asked))?;
        let mut part = of_page(tx, &page).await?;
        if in_sql {
            return Ok(part);
        }
        part.retain(|instance| filter.matches(instance));
        filter.by_address(tx, &mut part).await?;
        found.extend(part);
        if found.len() >= limit || !page.more {
            found.truncate(limit);
            return Ok(found);
        }
        asked.marker = page.ids.last().cloned();
    }
}

/// Why there is no page, in Nova's words.
pub fn refused(why: PageError, asked: &Asked) -> ApiError {
    match why {
        PageError::Store(error) => error.into(),
        PageError::NoMarker => ApiError::new(
            Service::Compute,
            StatusCode::BAD_REQUEST,
            format!(
                "marker [{}] not found",
                clip(asked.marker.as_deref().unwrap_or_default())
            ),
        ),
    }
}

async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Instance>, StoreError> {
    let found = instances::which(tx, &page.among("id")).await?;
    Ok(page.in_order(found, |instance| instance.id.to_string()))
}

/// A page, and the marker of the next one if there may be more.
pub type Page<T> = (Vec<T>, Option<String>);

/// The page after `marker`, of at most `limit` things. `None`: there is no such marker.
pub fn page<T>(
    all: Vec<T>,
    marker: Option<&str>,
    limit: usize,
    id: impl Fn(&T) -> String,
) -> Option<Page<T>> {
    let skip = match marker {
        None => 0,
        Some(marker) => all.iter().position(|t| id(t) == marker)? + 1,
    };
    let page: Vec<T> = all.into_iter().skip(skip).take(limit).collect();
    let next = page.last().filter(|_| page.len() == limit).map(id);
    Some((page, next))
}

/// Splits `a,b` of a tag filter.
pub fn tag_list(text: &str) -> Vec<String> {
    let tags: BTreeSet<&str> = text.split(',').filter(|t| !t.is_empty()).collect();
    tags.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::instances::{self, tests::new_instance};
    use berth_controller_core::store::Store;

    async fn three() -> (Store, Vec<String>) {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let mut ids = Vec::new();
        for (n, name, tag) in [(1, "web", "a"), (2, "db", "b"), (3, "web-2", "a")] {
            let mut new = new_instance(n, 1, 1);
            new.name = name.into();
            new.body.tags.insert(tag.into());
            ids.push(new.id.to_string());
            let at = i64::try_from(n).unwrap();
            store
                .tx(|tx| {
                    let new = new.clone();
                    Box::pin(async move { instances::insert(tx, at, &new).await })
                })
                .await
                .unwrap();
        }
        (store, ids)
    }

    async fn names(store: &Store, filter: Filter) -> Vec<String> {
        let found = store
            .tx(|tx| {
                let filter = filter.clone();
                Box::pin(async move { list(tx, &filter, &[], None, 99).await })
            })
            .await
            .unwrap();
        found.into_iter().map(|i| i.name).collect()
    }

    #[tokio::test]
    async fn a_name_filter_is_a_regular_expression_and_the_newest_comes_first() {
        let (store, _) = three().await;
        let filter = |text: &str| Filter {
            name: Some(Pattern::parse(text).unwrap()),
            ..Filter::default()
        };
        assert_eq!(names(&store, filter("web")).await, ["web-2", "web"]);
        assert_eq!(names(&store, filter("^web$")).await, ["web"]);
        assert_eq!(names(&store, filter("^w.*2")).await, ["web-2"]);
        assert_eq!(names(&store, filter("WEB")).await, [""; 0]);
        assert!(Pattern::parse("(").is_err());
    }

    #[tokio::test]
    async fn states_tags_and_projects_narrow() {
        let (store, _) = three().await;
        let building = Filter {
            states: vec![(VmState::Building, None)],
            ..Filter::default()
        };
        assert_eq!(names(&store, building).await.len(), 3);
        let active = Filter {
            states: vec![(VmState::Active, None)],
            ..Filter::default()
        };
        assert!(names(&store, active).await.is_empty());
        let tagged = Filter {
            tags: tag_list("a"),
            ..Filter::default()
        };
        assert_eq!(names(&store, tagged).await, ["web-2", "web"]);
        let untagged = Filter {
            not_tags_any: tag_list("a,c"),
            ..Filter::default()
        };
        assert_eq!(names(&store, untagged).await, ["db"]);
        let others = Filter {
            project: Some("elsewhere".into()),
            ..Filter::default()
        };
        assert!(names(&store, others).await.is_empty());
        let changed = Filter {
            changes_since: Some(3),
            ..Filter::default()
        };
        assert_eq!(names(&store, changed).await, ["web-2"]);
    }

    #[test]
    fn pages_join_to_the_whole() {
        let all = || vec![1, 2, 3, 4, 5];
        let (first, next) = page(all(), None, 2, i32::to_string).unwrap();
        assert_eq!((first, next.as_deref()), (vec![1, 2], Some("2")));
        let (rest, next) = page(all(), Some("2"), 9, i32::to_string).unwrap();
        assert_eq!((rest, next), (vec![3, 4, 5], None));
        assert!(page(all(), Some("9"), 2, i32::to_string).is_none());
        assert_eq!(page(all(), None, 0, i32::to_string).unwrap().0.len(), 0);
    }
}
