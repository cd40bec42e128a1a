//! Says where a `protoc` is: the build script of etcd's client wants one, and few machines have it.

fn main() -> Result<(), protoc_bin_vendored::Error> {
    println!("{}", protoc_bin_vendored::protoc_bin_path()?.display());
    Ok(())
}
