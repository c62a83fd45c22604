//! Generates client and server of the protocol and of gRPC's health service from `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/inference.proto", "proto/health.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Tensor data is then a view of the message that arrived, not a copy.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
