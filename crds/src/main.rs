//! Writes the custom resource definitions, one file each, into a folder: `make crds`.

fn main() -> std::process::ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: perwatt-crds FOLDER");
        return std::process::ExitCode::from(2);
    };
    match perwatt_crds::render::write(std::path::Path::new(&folder)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perwatt-crds: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
