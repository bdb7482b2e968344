//! Which servers a list shows, in which order, and which page of them.
//!
//! The database narrows by project, deletion and state; what is a regular expression to Nova
//! is one here, with bounded size and linear time, and is matched on the rows.

use super::instances::Instance;
use berth_controller_core::params;
use berth_controller_core::store::{StoreError, Tx, Value};
use berth_rpc_types::{Stored, TaskState, VmState};
use regex::{Regex, RegexBuilder};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// The most servers in one answer, as Nova's default.
pub const MAX_LIMIT: usize = 1000;

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
    /// Name.
    pub name: Option<Regex>,
    /// Image's id.
    pub image: Option<String>,
    /// Flavor's id.
    pub flavor: Option<String>,
    /// Server's id.
    pub id: Option<String>,
    /// Host's id.
    pub host_ids: Option<Vec<String>>,
    /// Key's name.
    pub key_name: Option<Regex>,
    /// Availability zone.
    pub zone: Option<Regex>,
    /// Description.
    pub description: Option<Regex>,
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
}

/// Keys that a list may be sorted by, Nova's names.
pub const SORT_KEYS: &[&str] = &[
    "created_at",
    "updated_at",
    "launched_at",
    "display_name",
    "uuid",
    "vm_state",
    "task_state",
    "power_state",
    "image_ref",
    "key_name",
    "project_id",
    "user_id",
    "host",
    "availability_zone",
];

/// A user's regular expression, bounded in size. The engine's time is linear in its input.
///
/// # Errors
/// What is wrong with it.
pub fn user_regex(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(1 << 16)
        .build()
        .map_err(|_| "is no regular expression that is understood here".to_owned())
}

impl Filter {
    fn matches(&self, i: &Instance) -> bool {
        let text = |want: &Option<String>, have: Option<String>| {
            want.as_ref().is_none_or(|w| Some(w) == have.as_ref())
        };
        let pattern = |want: &Option<Regex>, have: Option<&str>| {
            want.as_ref()
                .is_none_or(|w| w.is_match(have.unwrap_or_default()))
        };
        let state = self.states.is_empty()
            || self.states.iter().any(|(vm, task)| {
                // ACTIVE means no reboot: those have a status of their own.
                i.vm_state == *vm
                    && match task {
                        Some(task) => i.task_state.as_ref().is_some_and(|t| t == task),
                        None => i.status() == super::states::status(*vm, None),
                    }
            });
        let has = |tag: &String| i.body.tags.contains(tag);
        state
            && text(&self.user, Some(i.user_id.clone()))
            && text(&self.image, i.image_id.map(|id| id.to_string()))
            && text(&self.flavor, Some(i.flavor.id.clone()))
            && text(&self.id, Some(i.id.to_string()))
            && text(&self.vm_state, Some(i.vm_state.as_str().to_owned()))
            && self
                .host_ids
                .as_ref()
                .is_none_or(|ids| i.host_id.is_some_and(|h| ids.contains(&h.to_string())))
            && pattern(&self.name, Some(&i.name))
            && pattern(&self.key_name, i.key_name.as_deref())
            && pattern(&self.zone, i.availability_zone.as_deref())
            && pattern(&self.description, i.body.description.as_deref())
            && self.tags.iter().all(has)
            && (self.tags_any.is_empty() || self.tags_any.iter().any(has))
            && (self.not_tags.is_empty() || !self.not_tags.iter().all(has))
            && !self.not_tags_any.iter().any(has)
    }
}

/// The servers that match, newest first.
///
/// # Errors
/// [`StoreError`]
pub async fn list(tx: &mut Tx, filter: &Filter) -> Result<Vec<Instance>, StoreError> {
    let mut sql = String::from("SELECT * FROM instances WHERE 1 = 1");
    let mut values: Vec<Value> = params![].to_vec();
    let mut narrow = |condition: &str, value: Value| {
        values.push(value);
        sql.push_str(&condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(project) = &filter.project {
        narrow(" AND project_id = ?", project.into());
    }
    if let Some(since) = filter.changes_since {
        narrow(" AND updated_at >= ?", since.into());
    }
    match filter.deleted {
        Some(true) => sql.push_str(" AND deleted_at IS NOT NULL"),
        Some(false) => sql.push_str(" AND deleted_at IS NULL"),
        None => {}
    }
    sql.push_str(" ORDER BY created_at DESC, id DESC");
    let mut found: Vec<Instance> = tx.query(&sql, &values).await?;
    found.retain(|instance| filter.matches(instance));
    Ok(found)
}

/// Sorts by keys of [`SORT_KEYS`], each ascending or not; the newest first where they are equal.
pub fn sort(instances: &mut [Instance], keys: &[(String, bool)]) {
    instances.sort_by(|a, b| {
        for (key, ascending) in keys {
            let order = compare(a, b, key);
            if order != Ordering::Equal {
                return if *ascending { order } else { order.reverse() };
            }
        }
        Ordering::Equal
    });
}

fn compare(a: &Instance, b: &Instance, key: &str) -> Ordering {
    match key {
        "created_at" => a.created_at.cmp(&b.created_at),
        "updated_at" => a.updated_at.cmp(&b.updated_at),
        "launched_at" => a.launched_at.cmp(&b.launched_at),
        "display_name" => a.name.cmp(&b.name),
        "uuid" => a.id.cmp(&b.id),
        "vm_state" => a.vm_state.as_str().cmp(b.vm_state.as_str()),
        "task_state" => a
            .task_state
            .as_ref()
            .map(Stored::as_str)
            .cmp(&b.task_state.as_ref().map(Stored::as_str)),
        "power_state" => a.power_state.cmp(&b.power_state),
        "image_ref" => a.image_id.cmp(&b.image_id),
        "key_name" => a.key_name.cmp(&b.key_name),
        "project_id" => a.project_id.cmp(&b.project_id),
        "user_id" => a.user_id.cmp(&b.user_id),
        "host" => a.host_id.cmp(&b.host_id),
        "availability_zone" => a.availability_zone.cmp(&b.availability_zone),
        _ => Ordering::Equal,
    }
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
    use crate::instances::{insert_within_quota, tests::new_instance};
    use crate::quotas::ComputeLimits;
    use berth_controller_core::store::Store;

    async fn three() -> (Store, Vec<String>) {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let free = ComputeLimits {
            instances: -1,
            cores: -1,
            ram: -1,
        };
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
                    Box::pin(async move { insert_within_quota(tx, at, &new, free).await })
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
                Box::pin(async move { list(tx, &filter).await })
            })
            .await
            .unwrap();
        found.into_iter().map(|i| i.name).collect()
    }

    #[tokio::test]
    async fn a_name_filter_is_a_regular_expression_and_the_newest_comes_first() {
        let (store, _) = three().await;
        let filter = |text: &str| Filter {
            name: Some(user_regex(text).unwrap()),
            ..Filter::default()
        };
        assert_eq!(names(&store, filter("web")).await, ["web-2", "web"]);
        assert_eq!(names(&store, filter("^web$")).await, ["web"]);
        assert!(user_regex("(").is_err());
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
