//! The cluster of a figure.

use crate::cluster::{Cluster, ClusterOptions, NodeOptions};
use crate::product::Result;
use crate::progress::Progress;

/// Starts a new one; it ends with this value.
pub async fn start(nodes: Vec<NodeOptions>, progress: &Progress) -> Result<Cluster> {
    let options = ClusterOptions {
        name: "bench".into(),
        nodes,
        port: 0,
        progress: progress.clone(),
    };
    Ok(Cluster::start(options).await?)
}

/// Applies manifests.
pub async fn apply(cluster: &Cluster, manifests: &str) -> Result<()> {
    cluster
        .kubectl_with_input(&["apply", "-f", "-"], manifests)
        .await?;
    Ok(())
}
