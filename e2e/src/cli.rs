//! The command line of `perwatt-e2e`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::bench;
use crate::cluster::{Cluster, ClusterOptions, Error, NodeOptions, Result, run_forever};
use crate::demo;
use crate::images;
use crate::product;
use crate::product::traffic::{AskOptions, StreamOptions, ask, stream};
use crate::progress::Progress;

/// A real Kubernetes cluster in a box, on this machine.
#[derive(Debug, Parser)]
#[command(name = "perwatt-e2e", version)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a cluster and leave it running; does nothing where it runs already.
    Up {
        #[command(flatten)]
        cluster: Name,
        /// A node, with labels after a colon: edge-a or edge-a:key=value,key=value. Repeat for more.
        #[arg(long = "node", value_name = "NODE", value_parser = parse_node, default_values = ["edge-a", "edge-b"])]
        nodes: Vec<NodeOptions>,
        /// Loopback port of the API server; 0 takes any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// End a cluster and remove every trace of it.
    Down {
        #[command(flatten)]
        cluster: Name,
    },
    /// Print the path of a cluster's kubeconfig.
    Kubeconfig {
        #[command(flatten)]
        cluster: Name,
    },
    /// Pack the images of the product and of the demo's model; print their references and files.
    Images,
    /// Import images (tars in OCI layout) on every node.
    Load {
        #[command(flatten)]
        cluster: Name,
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The whole story: place, serve, fail, recover. Leaves its cluster running.
    Demo,
    /// Measure figures and write them as JSON into target/bench.
    Bench {
        /// Name of the figures; all where it is left out.
        name: Option<String>,
        /// Print the names and measure nothing.
        #[arg(long, conflicts_with = "name")]
        list: bool,
    },
    /// Measure canaries in full, and what a fault of a variant's server costs with a million requests for each fault: hours.
    Soak {
        /// Name of one of them; all where it is left out.
        name: Option<String>,
    },
    /// Stream a recording to a Service and print every reply as a line of JSON.
    #[command(hide = true)]
    Stream(StreamOptions),
    /// Send the requests of a file to a Service and print every reply as a line of JSON.
    #[command(hide = true)]
    Ask(AskOptions),
    /// Call ONNX Runtime directly and print how long that takes: the peer of a figure.
    #[command(hide = true)]
    CallOnnx(bench::CallOptions),
    /// Carry connections from loopback into a network namespace.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        namespace: PathBuf,
        #[arg(long)]
        target: SocketAddr,
        /// File to write the bound address to.
        #[arg(long)]
        announce: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the cluster.
    #[arg(long, default_value = "perwatt")]
    name: String,
}

/// Does what the arguments ask for.
pub async fn run(arguments: Arguments) -> product::Result<()> {
    crate::set_up_tls();
    match arguments.action {
        Action::Demo => demo::run().await,
        Action::Bench { list: true, .. } => {
            println!("{}", bench::NAMES.join("\n"));
            Ok(())
        }
        Action::Bench { name, .. } => bench::run(name.as_deref()).await,
        Action::Soak { name } => bench::soak(name.as_deref()).await,
        Action::CallOnnx(options) => bench::call_onnx(&options),
        Action::Stream(options) => stream(options).await,
        Action::Ask(options) => ask(options).await,
        Action::Images => pack_images(),
        action => Ok(manage(action).await?),
    }
}

async fn manage(action: Action) -> Result<()> {
    match action {
        Action::Demo
        | Action::Images
        | Action::Bench { .. }
        | Action::Soak { .. }
        | Action::CallOnnx(_)
        | Action::Stream(_)
        | Action::Ask(_) => Ok(()),
        Action::Up { cluster, nodes, port } => up(cluster.name, nodes, port).await,
        Action::Down { cluster } => down(&cluster.name).await,
        Action::Kubeconfig { cluster } => kubeconfig(&cluster.name).await,
        Action::Load { cluster, files } => load(&cluster.name, &files).await,
        Action::Forward {
            listen,
            namespace,
            target,
            announce,
        } => {
            run_forever(listen, &namespace, target, |address| {
                crate::cluster::write_file(&announce, address.to_string())
            })
            .await
        }
    }
}

async fn up(name: String, nodes: Vec<NodeOptions>, port: u16) -> Result<()> {
    let progress = Progress::new();
    let found = Cluster::attach(&name).await.and_then(|cluster| {
        cluster.check_parts()?;
        Ok(cluster)
    });
    let cluster = match found {
        Ok(cluster) => {
            progress.say(format!("cluster {name} runs already"));
            cluster
        }
        Err(Error::NotRunning { .. } | Error::PartEnded { .. }) => {
            let options = ClusterOptions {
                name,
                nodes,
                port,
                progress: progress.clone(),
            };
            Cluster::start(options).await?.detach()?
        }
        Err(other) => return Err(other),
    };
    progress.say(format!("logs of every part: {}", cluster.logs().display()));
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("export PATH={}:$PATH", cluster.binaries().display());
    Ok(())
}

async fn down(name: &str) -> Result<()> {
    let progress = Progress::new();
    Cluster::remove(name).await?;
    progress.say(format!("cluster {name} is gone"));
    Ok(())
}

async fn kubeconfig(name: &str) -> Result<()> {
    println!("{}", Cluster::attach(name).await?.kubeconfig().display());
    Ok(())
}

fn pack_images() -> product::Result<()> {
    for image in images::product(&Progress::new())?.all() {
        println!("{} {}", image.reference, image.file.display());
    }
    let (reference, file) = product::pack_model(product::Example::SPEECH_GATE)?;
    println!("{reference} {}", file.display());
    Ok(())
}

async fn load(name: &str, files: &[PathBuf]) -> Result<()> {
    let progress = Progress::new();
    let cluster = Cluster::attach(name).await?;
    for file in files {
        cluster.load_image(file).await?;
        progress.say(format!("{} is on every node of {name}", file.display()));
    }
    Ok(())
}

/// `NAME` or `NAME:KEY=VALUE,KEY=VALUE`.
fn parse_node(text: &str) -> Result<NodeOptions, String> {
    let (name, labels) = text.split_once(':').unwrap_or((text, ""));
    let mut node = NodeOptions::new(name);
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| format!("label {label:?} has no `=`"))?;
        node = node.label(key, value);
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_node_may_carry_labels() {
        let node = parse_node("edge-x:zone=north,perwatt.dev/sensor=camera").expect("parses");
        assert_eq!(node.name, "edge-x");
        assert_eq!(
            node.labels[1],
            ("perwatt.dev/sensor".to_owned(), "camera".to_owned())
        );
        assert_eq!(
            parse_node("edge-x:zone").expect_err("no value"),
            r#"label "zone" has no `=`"#
        );
    }
}
