//! `agent-footprint`: memory and processor time of the agent with few and many devices, and what it writes to the API
//! server, while nothing happens. Devices are emulated.

use std::time::Duration;

use super::figure::Figure;
use super::{cluster, failed, processes};
use crate::cluster::{Cluster, NodeOptions};
use crate::product::devices::{NodeDevices, Offered};
use crate::product::install::Product;
use crate::product::{Result, processes as pids};
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

/// Devices of each node.
const COUNTS: [usize; 3] = [1, 16, 100];
/// After the last device is there: what starting costs is over.
const SETTLES: Duration = Duration::from_secs(30);
/// How long nothing happens.
const REST: Duration = Duration::from_secs(300);
/// Verbs that change something, as the API server counts them.
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];
/// All that an agent has the right to write.
const RESOURCE: &str = "deviceinventories";

/// Memory, processor seconds a minute, writes an hour.
pub async fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let nodes = COUNTS.map(|count| NodeOptions::new(&node(count)));
    let cluster = cluster::start(nodes.into(), &progress).await?;
    let product = Product::install(&cluster, &progress).await?;
    let before_devices = writes(&cluster).await?;
    let mut agents = Vec::new();
    for count in COUNTS {
        cluster::apply(&cluster, &profile(count)).await?;
        offered(&cluster, count).await?;
        agents.push((count, agent(&product, count).await?));
    }
    tokio::time::sleep(SETTLES).await;
    let before = writes(&cluster).await?;
    let used = processor_seconds(&agents)?;
    progress.say(format!("{} s in which nothing happens", REST.as_secs()));
    tokio::time::sleep(REST).await;
    let written = writes(&cluster).await? - before;
    let mut figures = Vec::new();
    let used = processor_seconds(&agents)?.into_iter().zip(used);
    for ((count, pid), (after, before)) in agents.iter().zip(used) {
        let of = |what: &str| format!("agent with {count} devices, {what}");
        let resident = processes::resident_mebibytes(*pid)?;
        figures.push(Figure::new(&of("resident memory"), resident, "MiB", 1));
        let minutely = (after - before) / REST.as_secs_f64() * 60.0;
        figures.push(Figure::new(&of("processor time a minute"), minutely, "s", 1));
    }
    let hourly = written / REST.as_secs_f64() * 3600.0;
    figures.push(Figure::new(
        "API server writes of all agents, an hour",
        hourly,
        "writes",
        1,
    ));
    figures.push(Figure::new(
        "API server writes of all agents until their devices were there",
        before - before_devices,
        "writes",
        1,
    ));
    cluster.stop().await?;
    Ok(figures)
}

fn node(count: usize) -> String {
    format!("edge-{count}")
}

fn profile_name(count: usize) -> String {
    format!("emulated-{count}")
}

fn profile(count: usize) -> String {
    format!(
        "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {{name: {profile}}}
spec:
  class: ASIC
  discovery: {{emulated: {{count: {count}, nodes: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}}}}}
  power: {{typicalMilliwatts: 1000, maxMilliwatts: 2000}}
",
        profile = profile_name(count),
        node = node(count)
    )
}

/// Waits until the kubelet offers all devices of a node.
async fn offered(cluster: &Cluster, count: usize) -> Result<()> {
    let devices = NodeDevices::new(cluster, &node(count), &profile_name(count))?;
    let (devices, all) = (
        &devices,
        Offered {
            capacity: count,
            allocatable: count,
        },
    );
    let waited = until("the kubelet offers all devices", DEADLINE, || async move {
        let offered = devices.offered().await.map_err(|error| error.to_string())?;
        if offered == all {
            Ok(())
        } else {
            Err(format!("{offered:?}"))
        }
    });
    Ok(waited.await?)
}

/// The agent's process.
async fn agent(product: &Product<'_>, count: usize) -> Result<i32> {
    let pod = product.agent_pod(&node(count)).await?;
    let uid = pod.metadata.uid.unwrap_or_default();
    let found = pids("perwatt-device-plugin", &uid);
    found
        .first()
        .copied()
        .ok_or_else(|| failed("the agent", "it has no process"))
}

fn processor_seconds(agents: &[(usize, i32)]) -> Result<Vec<f64>> {
    agents
        .iter()
        .map(|(_, pid)| processes::processor_seconds(*pid))
        .collect()
}

/// Requests by which somebody wrote, or tried to write, what only agents have the right to.
async fn writes(cluster: &Cluster) -> Result<f64> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
    Ok(count_writes(&metrics))
}

fn count_writes(metrics: &str) -> f64 {
    let requests = metrics
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"));
    let of_agents = requests.filter(|line| line.contains(&format!("resource=\"{RESOURCE}\"")));
    let written = of_agents.filter(|line| {
        WRITES
            .iter()
            .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    });
    written
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_inventories_count_and_nothing_else() {
        let metrics = "# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",resource=\"deviceinventories\",subresource=\"status\",verb=\"APPLY\"} 3
apiserver_request_total{code=\"403\",resource=\"deviceinventories\",subresource=\"\",verb=\"POST\"} 2
apiserver_request_total{code=\"0\",resource=\"deviceinventories\",subresource=\"\",verb=\"WATCH\"} 7
apiserver_request_total{code=\"200\",resource=\"nodes\",subresource=\"status\",verb=\"PATCH\"} 11
apiserver_request_slo_duration_seconds_sum{resource=\"deviceinventories\",verb=\"APPLY\"} 0.5
";
        assert!((count_writes(metrics) - 5.0).abs() < f64::EPSILON);
    }
}
