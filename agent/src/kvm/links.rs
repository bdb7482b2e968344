//! Interfaces, bridges and addresses, by rtnetlink. Each function is safe to call again.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, new_connection};
use std::net::IpAddr;

/// Why an interface is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinksError {
    #[error("rtnetlink cannot be opened: {0}")]
    Open(#[source] std::io::Error),
    #[error("{doing} {interface}: {source}; does the agent have CAP_NET_ADMIN?")]
    Netlink {
        doing: &'static str,
        interface: String,
        source: rtnetlink::Error,
    },
    #[error("interface {0} is not there; correct physical_networks")]
    Missing(String),
    #[error(
        "interface {0} carries the host's own address, which a bridge would take away; make a bridge yourself and name that in physical_networks"
    )]
    HasAddress(String),
}

/// A netlink socket.
pub(super) struct Links {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn failed<'a>(
    doing: &'static str,
    interface: impl Into<String> + 'a,
) -> impl FnOnce(rtnetlink::Error) -> LinksError + 'a {
    move |source| LinksError::Netlink {
        doing,
        interface: interface.into(),
        source,
    }
}

/// -ENODEV, -ENOENT and their like.
fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

impl Links {
    pub fn open() -> Result<Self, LinksError> {
        let (connection, handle, _) = new_connection().map_err(LinksError::Open)?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    async fn get(&self, name: &str) -> Result<Option<LinkMessage>, LinksError> {
        let mut found = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is_errno(&error, nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(failed("look up", name)(error)),
        }
    }

    /// An interface's index, if it is there.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, LinksError> {
        Ok(self.get(name).await?.map(|link| link.header.index))
    }

    /// The index of the bridge that an interface is in.
    pub async fn controller_of(&self, name: &str) -> Result<Option<u32>, LinksError> {
        Ok(self.get(name).await?.as_ref().and_then(controller))
    }

    async fn change(
        &self,
        doing: &'static str,
        name: &str,
        message: LinkMessage,
    ) -> Result<(), LinksError> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed(doing, name))
    }

    /// A bridge that is up, with this MTU; made if it is missing.
    pub async fn bridge(&self, name: &str, mtu: u16) -> Result<u32, LinksError> {
        if self.index(name).await?.is_none() {
            let made = self
                .handle
                .link()
                .add(LinkBridge::new(name).build())
                .execute()
                .await;
            match made {
                Err(error) if !is_errno(&error, nix::libc::EEXIST) => {
                    return Err(failed("make bridge", name)(error));
                }
                _ => {}
            }
        }
        let index = self
            .index(name)
            .await?
            .ok_or_else(|| LinksError::Missing(name.to_owned()))?;
        let message = LinkUnspec::new_with_index(index)
            .mtu(mtu.into())
            .up()
            .build();
        self.change("set up bridge", name, message).await?;
        Ok(index)
    }

    /// Puts a tap into a bridge, with an MTU, and up.
    pub async fn attach(&self, name: &str, bridge: u32, mtu: u16) -> Result<(), LinksError> {
        let index = self
            .index(name)
            .await?
            .ok_or_else(|| LinksError::Missing(name.to_owned()))?;
        let message = LinkUnspec::new_with_index(index)
            .controller(bridge)
            .mtu(mtu.into())
            .up()
            .build();
        self.change("attach tap", name, message).await
    }

    /// Puts the physical interface into the bridge, unless it would take an address of the
    /// host's with it.
    pub async fn enslave_physical(
        &self,
        interface: &str,
        bridge_name: &str,
        bridge: u32,
    ) -> Result<(), LinksError> {
        let link = self
            .get(interface)
            .await?
            .ok_or_else(|| LinksError::Missing(interface.to_owned()))?;
        if controller(&link) == Some(bridge) {
            return Ok(());
        }
        if is_bridge(&link) {
            return self
                .join_bridges(interface, link.header.index, bridge_name, bridge)
                .await;
        }
        let index = link.header.index;
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute();
        while let Some(address) = addresses
            .try_next()
            .await
            .map_err(failed("list addresses of", interface))?
        {
            let is_v4 =
                |a: &AddressAttribute| matches!(a, AddressAttribute::Address(IpAddr::V4(_)));
            if address.header.index == index && address.attributes.iter().any(is_v4) {
                return Err(LinksError::HasAddress(interface.to_owned()));
            }
        }
        let message = LinkUnspec::new_with_index(index)
            .controller(bridge)
            .up()
            .build();
        self.change("put into its bridge", interface, message).await
    }

    /// The operator's own bridge is joined with ours by a veth pair: his stays as it is.
    async fn join_bridges(
        &self,
        theirs: &str,
        their_index: u32,
        ours: &str,
        our_index: u32,
    ) -> Result<(), LinksError> {
        let [near, far] = &veth_names(ours);
        if self.index(near).await?.is_none() {
            let pair = rtnetlink::LinkVeth::new(near, far).build();
            self.handle
                .link()
                .add(pair)
                .execute()
                .await
                .map_err(failed("make veth", near))?;
        }
        for (name, bridge) in [(near, our_index), (far, their_index)] {
            let index = self
                .index(name)
                .await?
                .ok_or_else(|| LinksError::Missing(name.clone()))?;
            let message = LinkUnspec::new_with_index(index)
                .controller(bridge)
                .up()
                .build();
            self.change("join bridges by", &format!("{name} ({theirs})"), message)
                .await?;
        }
        Ok(())
    }

    /// Gives an interface an address. Without a route, only what is sent through this very
    /// interface uses it.
    pub async fn address(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
        with_route: bool,
    ) -> Result<(), LinksError> {
        let mut request = self.handle.address().add(index, address, prefix);
        if !with_route {
            let flags = AddressAttribute::Flags(AddressFlags::Noprefixroute);
            request.message_mut().attributes.push(flags);
        }
        match request.execute().await {
            Err(error) if !is_errno(&error, nix::libc::EEXIST) => {
                Err(failed("address", address.to_string())(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether any tap of a guest's is on a bridge.
    pub async fn has_taps(&self, bridge: &str) -> Result<bool, LinksError> {
        let Some(index) = self.index(bridge).await? else {
            return Ok(false);
        };
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links
            .try_next()
            .await
            .map_err(failed("list the ports of", bridge))?
        {
            let is_tap =
                |a: &LinkAttribute| matches!(a, LinkAttribute::IfName(n) if n.starts_with("bt"));
            if controller(&link) == Some(index) && link.attributes.iter().any(is_tap) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes a bridge of ours and what joins it to another.
    pub async fn remove_bridge(&self, bridge: &str) -> Result<(), LinksError> {
        let [near, _] = veth_names(bridge);
        self.remove(&near).await?;
        self.remove(bridge).await
    }

    /// Removes an interface, if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), LinksError> {
        let Some(index) = self.index(name).await? else {
            return Ok(());
        };
        match self.handle.link().del(index).execute().await {
            Err(error) if !is_errno(&error, nix::libc::ENODEV) => {
                Err(failed("remove", name)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The two ends that join our bridge to another: names of 15 characters.
fn veth_names(bridge: &str) -> [String; 2] {
    let stem = bridge.strip_prefix("bb").unwrap_or(bridge);
    [format!("bv{stem}0"), format!("bv{stem}1")]
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) if *index != 0 => Some(*index),
            _ => None,
        })
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}
