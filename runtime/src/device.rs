//! The agent's side of things: which state the device is in, and telling the agent what serves.

use crate::chain::Active;
use crate::engine::Engine;
use perwatt_device_socket::{DeviceClient, ReportRequest, WatchRequest, connect};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tonic::transport::Channel;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Follows the device for all engines and reports to the agent what the first serves, for ever. An agent that is
/// away changes nothing: the last state stays true until another one comes.
pub async fn follow(engines: &[Arc<Engine>], socket_dir: &Path, id: &str) {
    let Some(first) = engines.first() else { return };
    let client = match connect(socket_dir) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "the agent's socket cannot be used: device health stays unknown");
            return;
        }
    };
    let back = Notify::new();
    tokio::join!(
        watch(engines, client.clone(), id, &back),
        report(first, client, &back)
    );
}

async fn watch(engines: &[Arc<Engine>], mut client: DeviceClient<Channel>, id: &str, back: &Notify) {
    let mut backoff = FIRST_BACKOFF;
    let mut told = false;
    loop {
        match watch_once(engines, &mut client, id, back).await {
            Ok(()) => {
                tracing::warn!("the node agent went away: the device's last state stays");
                backoff = FIRST_BACKOFF;
            }
            Err(status) if !told => {
                tracing::warn!(error = %status, "the node agent does not answer: the device's last state stays");
            }
            Err(_) => {}
        }
        told = true;
        sleep(backoff).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

async fn watch_once(
    engines: &[Arc<Engine>],
    client: &mut DeviceClient<Channel>,
    id: &str,
    back: &Notify,
) -> Result<(), tonic::Status> {
    let mut states = client.watch(WatchRequest {}).await?.into_inner();
    tracing::info!(device = id, "following the device");
    // The agent may be a new one, which knows nothing of us yet.
    back.notify_one();
    while let Some(state) = states.message().await.transpose() {
        // A stream that breaks after it began is an agent that went away, not one that is missing.
        let Ok(state) = state else { return Ok(()) };
        if state.id != id {
            tracing::warn!(
                expected = id,
                found = state.id,
                "the agent speaks of another device: ignored"
            );
            continue;
        }
        if engines.iter().any(|engine| !engine.is_told_already(&state)) {
            let (health, reason) = (state.health().as_str_name(), &state.reason);
            let going_away = state.going_away;
            tracing::info!(device = id, health, reason, going_away, "the device's state");
        }
        for engine in engines {
            engine.device_changed(state.clone());
        }
    }
    Ok(())
}

async fn report(engine: &Engine, mut client: DeviceClient<Channel>, back: &Notify) {
    let mut changes = engine.watch_active();
    loop {
        let active = changes.borrow_and_update().clone();
        let sent = client.report(build_report(engine, &active)).await;
        if let Err(error) = &sent {
            tracing::debug!(%error, "the agent did not take the report: it will be sent again");
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = back.notified() => {}
            () = sleep(LONGEST_BACKOFF), if sent.is_err() => {}
        }
    }
}

fn build_report(engine: &Engine, active: &Active) -> ReportRequest {
    let config = &engine.config;
    let name = active
        .index
        .and_then(|index| engine.slots.get(index))
        .map(|slot| slot.name.clone());
    ReportRequest {
        workload: config.workload.clone(),
        namespace: config.namespace.clone(),
        revision: config.revision.clone(),
        slot: config.slot.clone(),
        active_variant: name.unwrap_or_default(),
        degraded: active.index != Some(0),
        reason: active
            .cause
            .as_ref()
            .map(|cause| cause.reason.as_str().to_owned())
            .unwrap_or_default(),
    }
}
