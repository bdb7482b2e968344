//! temporary
use std::sync::Arc;
use std::sync::mpsc::channel;
use berth_vmm::guest::{Guest, Surroundings};
use berth_vmm::resources::Resources;
fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_default();
    let config: berth_vmm_api::VmmConfig = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut resources = Resources::from_config(&config)?;
    let plan = resources.take_plan()?.ok_or_else(|| anyhow::anyhow!("nothing to boot"))?;
    let (sender, receiver) = channel();
    let on_exit = Arc::new(move |exit| { let _ = sender.send(exit); });
    let guest = Guest::start(plan, Surroundings { on_exit, boot_timer: None })?;
    let exit = receiver.recv()?;
    drop(guest);
    eprintln!("{exit:?}");
    Ok(())
}
