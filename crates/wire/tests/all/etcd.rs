//! The etcd API against etcd's own.
//!
//! `golden/etcd-api.txt` lists what the descriptors of etcd 3.7.1 say of every call, and of every
//! message and enumeration a call can reach:
//! ```text
//! rpc      service  call  request  response  unary | client | server | both (who streams)
//! message  name
//! field    message  number  name  type  optional | repeated  oneof or -
//! enum     name  value  number
//! ```

use std::collections::BTreeSet;

use holdfast_wire::etcd::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

const GOLDEN: &str = include_str!("../golden/etcd-api.txt");

fn ours() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            facts.extend(service.method.iter().map(|method| rpc(&name, method)));
        }
        for one in &file.message_type {
            message(file.package(), one, &mut facts);
        }
        for one in &file.enum_type {
            enumeration(file.package(), one, &mut facts);
        }
    }
    facts
}

fn rpc(service: &str, method: &MethodDescriptorProto) -> String {
    let streams = match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client",
        (false, true) => "server",
        (true, true) => "both",
    };
    let (input, output) = (plain(method.input_type()), plain(method.output_type()));
    format!("rpc {service} {} {input} {output} {streams}", method.name())
}

fn message(scope: &str, one: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", one.name());
    facts.insert(format!("message {name}"));
    facts.extend(one.field.iter().map(|of| field(&name, one, of)));
    for nested in &one.nested_type {
        message(&name, nested, facts);
    }
    for nested in &one.enum_type {
        enumeration(&name, nested, facts);
    }
}

fn field(message: &str, of: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => plain(field.type_name()).to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let label = if field.label() == Label::Repeated { "repeated" } else { "optional" };
    let oneof = field.oneof_index.map(|at| of.oneof_decl[usize::try_from(at).unwrap()].name());
    let (number, name, oneof) = (field.number(), field.name(), oneof.unwrap_or("-"));
    format!("field {message} {number} {name} {kind} {label} {oneof}")
}

fn enumeration(scope: &str, one: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", one.name());
    facts.extend(one.value.iter().map(|v| format!("enum {name} {} {}", v.name(), v.number())));
}

fn plain(name: &str) -> &str {
    name.trim_start_matches('.')
}

#[test]
fn every_call_message_and_number_is_etcds() {
    let theirs: BTreeSet<String> = GOLDEN.lines().map(str::to_owned).collect();
    let ours = ours();
    let missing: Vec<&String> = theirs.difference(&ours).collect();
    let extra: Vec<&String> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}, extra {extra:#?}");
    assert_eq!(ours.len(), GOLDEN.lines().count(), "the list names something twice");
}
