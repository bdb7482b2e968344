//! What there is to do, and under which version of its steps.

use crate::states::Action;
use serde_json::Value;

/// A kind of workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Place an instance, bind its ports, build its VMM. Params: `forced_host` (optional).
    Create,
    /// Remove its VMMs, then all it holds.
    Delete,
    /// Run a stopped one.
    Start,
    /// Power it off. Params: `grace_s` (optional).
    Stop,
    /// Params: `soft` (bool).
    Reboot,
    /// vCPUs stand still.
    Pause,
    /// vCPUs go on.
    Unpause,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Delete,
        Self::Start,
        Self::Stop,
        Self::Reboot,
        Self::Pause,
        Self::Unpause,
    ];

    /// The text in `operations.kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        }
    }

    /// The kind with this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == text)
    }

    /// The version of its steps that this build begins. An operation keeps the version that it
    /// was begun with: steps of older versions stay until no release that began them is
    /// supported, and a newer one is left to the controllers that know it.
    pub const fn version(self) -> i64 {
        1
    }

    /// Its row in the table of states. `params` tell a soft reboot from a hard one.
    pub fn action(self, params: &Value) -> Action {
        match self {
            Self::Create => Action::Create,
            Self::Delete => Action::Delete,
            Self::Start => Action::Start,
            Self::Stop => Action::Stop,
            Self::Reboot if params["soft"] == Value::Bool(true) => Action::RebootSoft,
            Self::Reboot => Action::RebootHard,
            Self::Pause => Action::Pause,
            Self::Unpause => Action::Unpause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_its_text() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(*kind));
        }
        assert_eq!(Kind::parse("fly"), None);
    }

    #[test]
    fn a_reboot_is_soft_only_if_it_says_so() {
        let soft = serde_json::json!({"soft": true});
        assert_eq!(Kind::Reboot.action(&soft), Action::RebootSoft);
        assert_eq!(Kind::Reboot.action(&Value::Null), Action::RebootHard);
    }
}
