from operations.resource_graph import draw

PARENT = "urn:pulumi:dev::mlflow-eks::mlflow-eks:index:ArtifactStore::artifacts"


def resource(kind: str, name: str, *needs: str) -> dict[str, object]:
    urn = f"urn:pulumi:dev::mlflow-eks::mlflow-eks:index:ArtifactStore${kind}::{name}"
    return {"urn": urn, "type": kind, "custom": True, "parent": PARENT, "dependencies": list(needs)}


def test_resources_of_a_component_share_a_box_and_arrows_that_follow_from_others_are_left_out() -> None:
    bucket = resource("aws:s3/bucket:Bucket", "bucket")
    versions = resource("aws:s3/bucketVersioning:BucketVersioning", "versions", str(bucket["urn"]))
    lifecycle = resource(
        "aws:s3/bucketLifecycleConfiguration:Rules", "lifecycle", str(bucket["urn"]), str(versions["urn"])
    )
    component = {"urn": PARENT, "type": "mlflow-eks:index:ArtifactStore", "custom": False}
    drawing = draw({"resources": [component, bucket, versions, lifecycle]})
    assert "subgraph artifacts" in drawing
    assert [line.strip() for line in drawing.splitlines() if "-->" in line] == ["r0 --> r1", "r1 --> r2"]
